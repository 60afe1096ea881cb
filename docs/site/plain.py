"""Docstrings as they are meant: an equation's stars and angle brackets are no markup."""

import ast
import re
from typing import Any

import griffe

CODE = re.compile(r"(^(?: {4}|\t).*$|`[^`]*`)", re.MULTILINE)


class Plain(griffe.Extension):
    """Escapes what Markdown would take for emphasis, a link or HTML, but in code.

    A class shows its fields with their defaults, the hyper-parameters of a method for one. The
    text of a shape stays as it is written; griffe would read "b *f" as a product.
    """

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            parts = CODE.split(obj.docstring.value)
            parts[::2] = [_escaped(part) for part in parts[::2]]
            obj.docstring.value = "".join(parts)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        fields = [
            f"{field.name}: {field.annotation}" + (f" = {field.value}" if field.value else "")
            for field in cls.members.values()
            if field.is_attribute and field.is_public and field.annotation and not field.docstring
            if "instance-attribute" in field.labels
        ]
        if fields and cls.docstring:
            cls.docstring.value += "\n\n```python\n" + "\n".join(fields) + "\n```"

    def on_function_instance(self, *, node: Any, func: griffe.Function, **_: Any) -> None:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        arguments = node.args
        for one in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            if one.annotation:
                func.parameters[one.arg].annotation = _written(one.annotation)
        if node.returns:
            func.returns = _written(node.returns)

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        if isinstance(node, ast.AnnAssign):
            attr.annotation = _written(node.annotation)


def _written(annotation: ast.expr) -> str:
    return ast.unparse(annotation).replace("'", '"')


def _escaped(text: str) -> str:
    return re.sub(r"([*_\[\]])", r"\\\1", text).replace("<", "&lt;")
