"""Triton's interpreter, made faster."""

from triton.runtime import interpreter


def skip_repeated_patches(monkeypatch):
    """Have a function that a kernel calls patch Triton's language only once.

    The interpreter patches it when a kernel is launched and again at every such call, for several milliseconds, in
    case the function sees another module than the kernel does.
    """
    patch, seen = interpreter._patch_lang, set()

    def call(function, *arguments, **options):
        module = function.fn.__module__
        if module not in seen:
            seen.add(module)
            patch(function.fn)
        return function.rewrite()(*arguments, **options)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
