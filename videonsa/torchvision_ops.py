"""Make `import torchvision` work beside a CPU-only torch. Imports no torch itself.

torchvision's wheel is built against CUDA. Beside CPU-only torch its compiled library does not load, so the operators
that its Python code describes are missing and `import torchvision` fails with "operator torchvision::nms does not
exist"; transformers' Qwen2.5-VL classes then fail to import. Declaring the two operators (without a kernel: nothing
here calls them) cures it, but only before torchvision is first imported, also under a bare `python -m lmms_eval`. Hence
`videonsa_torchvision.pth`, installed beside this package, calls `install` at Python's start: it costs one entry in
`sys.meta_path`, and acts when somebody imports torchvision. As every start of Python pays for this file, it imports
next to nothing; and the package is forgotten again, so that a clone or snapshot first on the path is what runs.
"""

import sys
from importlib.machinery import PathFinder

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[object] = []  # torch forgets a library's operators when the library object goes


class TorchvisionFinder:
    """A meta-path finder: finds torchvision where Python would, and declares its missing operators before it runs."""

    def find_spec(self, fullname, path=None, target=None):  # types need imports
        """The spec of torchvision with a loader that declares first; None for every other module."""
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or not spec.submodule_search_locations:
            return None
        execute, folder = spec.loader.exec_module, next(iter(spec.submodule_search_locations))

        def declare_first(module):
            declare_missing(folder)
            execute(module)

        spec.loader.exec_module = declare_first  # type: ignore[method-assign]  # of this one loader object
        return spec


def install() -> None:
    """Put the finder in place, once; nothing when torchvision is already imported."""
    there = any(type(each).__name__ == TorchvisionFinder.__name__ for each in sys.meta_path)  # perhaps of that start
    if "torchvision" not in sys.modules and not there:
        sys.meta_path.insert(0, TorchvisionFinder())  # type: ignore[arg-type]  # duck-typed: importlib.abc is slow to import


def declare_missing(folder: str) -> None:
    """Declare torchvision's operators unless the compiled library in its folder brings them."""
    import torch

    if _declared or _library_loads(folder):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        library.define(name + SCHEMA)
    _declared.append(library)


def _library_loads(folder: str) -> bool:
    """Whether torch can load torchvision's compiled operators; it then has loaded them."""
    from pathlib import Path

    import torch

    for file in Path(folder).glob("_C*.so"):
        try:
            torch.ops.load_library(str(file))
        except OSError:
            continue
        return True
    return False
