"""What a probe looks at: one file an observer, behind one registry (registry.py); the contract: contract.py."""
