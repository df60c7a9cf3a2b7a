#!/usr/bin/env bash
# A real Slurm cluster of one node on this machine's loopback, for tests: Debian's or Ubuntu's packages, with accounting.
#
#   sudo slurm/local_cluster.sh start     install what is missing, configure, start what does not run
#   sudo slurm/local_cluster.sh stop      stop the daemons (also: stop slurmd, start slurmctld, ...)
#   sudo slurm/local_cluster.sh wipe      stop, then remove keys, database and state
#   slurm/local_cluster.sh status         daemons and node
#   eval "$(slurm/local_cluster.sh env)"  so that sbatch, squeue and submitit find it
#
# Nothing is written to /etc but, if it is missing, this host's name in /etc/hosts: a Slurm that is there stays as it is.
# CLUSTER_HOME (default /tmp/videonsa-slurm) holds everything; CLUSTER_CPUS (default nproc, may exceed it) is the node's size;
# CLUSTER_PORT (default 26817) is the first of the four ports that it takes on loopback.
# Partitions: debug (the default) and urgent, whose jobs preempt those of debug. MaxArraySize is 65.
set -euo pipefail
export PATH=/usr/sbin:/sbin:$PATH

home=${CLUSTER_HOME:-/tmp/videonsa-slurm}
kept() { sed -n "s/^.*\b$1=\([0-9]*\).*/\1/p" "$home/slurm.conf" 2>/dev/null || true; } # as it was started before
cpus=${CLUSTER_CPUS:-$(kept CPUs)}
cpus=${cpus:-$(nproc)}
port=${CLUSTER_PORT:-$(kept SlurmctldPort)}
port=${port:-26817}
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
host=$(hostname -s)
password=videonsa
socket=$home/munge/socket
export SLURM_CONF=$home/slurm.conf
packages=(slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin slurm-wlm-basic-plugins munge mariadb-server)
daemons=(munged mariadbd slurmdbd slurmctld slurmd)

fail() { echo "local_cluster.sh: $*" >&2; exit 1; }

# A daemon of ours lives when the process of its pid file exists, is no zombie, and has the daemon's name.
alive() {
  local pid
  pid=$(cat "$home/pid/$1" 2>/dev/null) && [[ "$(cut -d' ' -f2,3 "/proc/$pid/stat" 2>/dev/null)" == "($1) "[!ZX] ]]
}

launch() { # launch NAME COMMAND...: in a session of its own, in the foreground mode of the daemon
  local name=$1
  shift
  alive "$name" && return
  setsid "$@" </dev/null >>"$home/log/$name.out" 2>&1 &
  echo $! >"$home/pid/$name"
}

wait_until() { # wait_until SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until timeout 10 "$@" >"$home/log/waiting.out" 2>&1; do
    if [ $SECONDS -ge $end ]; then
      tail -n 4 "$home"/log/*.out >&2
      fail "$what did not come up; logs: $home/log"
    fi
    sleep 0.1
  done
}

install_packages() { # one at a time: two clusters may be started at once
  exec 9>"${TMPDIR:-/tmp}/videonsa-slurm.lock"
  flock 9
  install_missing
  exec 9>&-
}

install_missing() {
  local installed
  installed=$(dpkg-query -W -f='${db:Status-Abbrev}\n' "${packages[@]}" 2>/dev/null | grep -c '^ii' || true)
  [ "$installed" = ${#packages[@]} ] && return
  command -v apt-get >/dev/null || fail "needs Debian or Ubuntu (apt-get) to install ${packages[*]}"
  local policy=/usr/sbin/policy-rc.d own=
  if [ ! -e $policy ]; then # the packages must not start their own services
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    own=1
  fi
  local log=$home/log/apt.log done_=0
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "${packages[@]}"; } >"$log" 2>&1 && done_=1
  [ -z "$own" ] || rm -f $policy
  [ $done_ = 1 ] || { tail -n 5 "$log" >&2; fail "the packages could not be installed; log: $log"; }
}

configure() {
  install -d -m 755 "$home"/{ctld,slurmd,munge}
  install -d -m 700 -o mysql -g mysql "$home/mysql"
  [ -s "$home/munge/key" ] || (umask 077; head -c 128 /dev/urandom >"$home/munge/key")
  getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
  cat >"$home/slurm.conf" <<CONF
ClusterName=videonsa
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmctldPidFile=$home/pid/slurmctld.own
SlurmdPidFile=$home/pid/slurmd.own
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd.log
StateSaveLocation=$home/ctld
SlurmdSpoolDir=$home/slurmd
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageEnforce=associations,qos
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$socket
JobRequeue=1
MaxArraySize=65
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SlurmdTimeout=30
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
DefMemPerCPU=512
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1 GraceTime=20 State=UP
PartitionName=urgent Nodes=$host MaxTime=INFINITE DefaultTime=60 PriorityTier=10 State=UP
CONF
  (umask 077; cat >"$home/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$socket
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile=$home/pid/slurmdbd.own
LogFile=$home/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 3))
StorageUser=slurm
StoragePass=$password
StorageLoc=slurm_acct_db
CONF
  )
  cat >"$home/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '$password';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY '$password';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';
SQL
  chmod 644 "$home/init.sql"
  [ -d "$home/mysql/mysql" ] ||
    mariadb-install-db --no-defaults --user=mysql --datadir="$home/mysql" --skip-test-db >"$home/log/database.out" 2>&1
}

start_munged() {
  launch munged munged --foreground --key-file="$home/munge/key" --socket="$socket" \
    --pid-file="$home/munge/pid" --seed-file="$home/munge/seed" --log-file="$home/log/munged.log"
  wait_until 10 munged munge -n --socket="$socket"
}
start_mariadbd() {
  launch mariadbd mariadbd --no-defaults --user=mysql --datadir="$home/mysql" --bind-address=127.0.0.1 --port=$((port + 3)) \
    --socket="$home/mysql/socket" --pid-file="$home/mysql/pid" --init-file="$home/init.sql" \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 --performance-schema=OFF
  wait_until 60 mariadbd mariadb --no-defaults -h127.0.0.1 -P$((port + 3)) -uslurm "-p$password" -e 'select 1' slurm_acct_db
}
start_slurmdbd() { launch slurmdbd slurmdbd -D; wait_until 60 slurmdbd sacctmgr -n -i list cluster; }
start_slurmctld() { launch slurmctld slurmctld -D; wait_until 60 slurmctld sh -c 'scontrol ping | grep -q UP'; }
start_slurmd() {
  launch slurmd slurmd -D
  wait_until 60 slurmd sh -c "sinfo -h -n $host -o %T | grep -Eq '^(idle|mixed|allocated|completing)$'"
}

start() { # start [DAEMON...]
  [ "$(id -u)" = 0 ] || fail "start needs root (sudo)"
  install -d -m 755 "$home" "$home"/{log,pid}
  install_packages
  configure
  local name
  for name in "${@:-${daemons[@]}}"; do "start_$name"; done
}

stop() { # stop [DAEMON...], the last started first
  local names=("${@:-${daemons[@]}}") i name pid
  for ((i = ${#names[@]} - 1; i >= 0; i--)); do
    name=${names[i]}
    alive "$name" || continue
    pid=$(cat "$home/pid/$name")
    kill "$pid"
    for _ in $(seq 200); do alive "$name" || break; sleep 0.1; done
    ! alive "$name" || kill -9 "$pid"
    rm -f "$home/pid/$name"
  done
}

status() {
  local name
  for name in "${daemons[@]}"; do alive "$name" && echo "$name runs ($(cat "$home/pid/$name"))" || echo "$name is down"; done
  timeout 10 sinfo -N -l || true
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  start) start "$@" ;;
  stop) stop "$@" ;;
  wipe) stop; rm -rf "$home" ;;
  status) status ;;
  env) echo "export SLURM_CONF=$home/slurm.conf" ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
