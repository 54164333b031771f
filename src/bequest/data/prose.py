"""Clean prose out of Python source: docstrings and comment blocks, with code, tables, signatures and markup dropped.

Works on the source by parsing; nothing is imported.  What is dropped: doctests and their output, literal and directive
blocks (notes and warnings stay), tables, section titles, parameter lines (their descriptions stay), "See Also" and
reference lists, citations, formulas.  Inline markup (double backquotes, roles, emphasis) is taken off.

Try it: ``list(module_texts(Path(statistics.__file__).read_text()))``.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

#: A paragraph must have at least this many words, and this share of them must look like words of plain English.
LEAST_WORDS = 5
PLAIN_SHARE = 0.75

_KEPT_DIRECTIVES = {
    "note",
    "warning",
    "tip",
    "important",
    "caution",
    "hint",
    "attention",
    "admonition",
    "topic",
    "rubric",
}
_DROPPED_SECTIONS = {
    "see also",
    "references",
    "methods",
    "seealso",
    "reference",
    "author",
    "authors",
    "routine listings",
}

_DIRECTIVE = re.compile(r"^(\s*)\.\.\s+(?:\|\w+\|\s+)?([\w:-]+?)::\s*(.*)$")
_COMMENT_OR_TARGET = re.compile(r"^(\s*)(\.\.(\s+\S|$)|\[\d+\]|\[[A-Z]\w+\d*\]_?\s)")
_UNDERLINE = re.compile(r"^\s*([=\-~^\"'#*+`:._])\1{2,}\s*$")
_TABLE = re.compile(r"^\s*(\+[-=+]+\+|\|.*\||={2,}(\s+={2,})+|-{2,}(\s+-{2,})+)\s*$")
_FIELD = re.compile(
    r"^\s*:(param|parameter|arg|argument|key|keyword|type|return|returns|rtype|raise|raises|var|ivar|cvar)\b[^:]*:\s*"
)
_PARAMETER = re.compile(r"^\s*[*\w][\w.*,\s`'\[\]=/-]*\s:(\s.*)?$")
_GOOGLE_PARAMETER = re.compile(r"^\s*[*\w]+\s*\([^)]*\):\s+(?=\S)")
_BULLET = re.compile(r"^\s*([-*+•]|#\.|\d{1,2}[.)]|\([a-zA-Z0-9]{1,2}\)|[a-z]\))\s+(?=\S)")
_CALL = re.compile(r"^\s*[\w.]+\(.*\)\s*(->.*)?$")

_INLINE = (
    (re.compile(r":[\w:+.-]+:`~?\.?([^`<]+?)\s*<[^`]*>`"), r"\1"),
    (re.compile(r":[\w:+.-]+:`!?~?\.?([^`]+)`"), r"\1"),
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`]*>`_{0,2}"), r"\1"),
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])\*\*([^*\s](?:[^*]*[^*\s])?)\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"\$([^$\\]{1,40})\$"), r"\1"),
    (re.compile(r"\s*\[(?:#?\w{1,12}|\d+)\]_"), ""),
    (re.compile(r"\b(\w*[^\W_])_(?=[\s.,;)])"), r"\1"),
    (re.compile(r"\|(\w+)\|"), r"\1"),
    (re.compile(r"\s+"), " "),
)
_PLAIN_WORD = re.compile(r"^[(\"'“‘\[]*[A-Za-z][A-Za-z]*(?:['’-][A-Za-z]+)*[)\"'”’\]]*[.,;:!?…]*[)\"'”’\]]*$")
_ENDED = re.compile(r"[.!?:…][\"'”’)\]]*$")
_ENDABLE = re.compile(r"^[A-Z].*[a-z]{2}[)\"'”’]?$")
_SYMBOLS = re.compile(
    r">>>|\\\w|\\[\\(\[]|={3,}|-{2,}|[{}|^$`#]|::|https?:|\w\(\w*\)\(|[=+*/%&]\s?[+/%&]|@\w|\.\.\.\s*\w+\("
    r"|</?\w+>|;$|\bimport \w+$"
)

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def module_texts(source: str) -> Iterator[str]:
    """The prose of one module: its docstring, every top-level class, function and long string, and comments.

    Args:
        source: Python source.  What does not parse has no prose.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    texts = [paragraphs_text(_docstring(tree))]
    for node in tree.body:
        own = [paragraphs_text(text) for text in _strings_of(node)]
        texts += ["\n\n".join(filter(None, own))] if isinstance(node, _DEFINITIONS) else own
    yield from filter(None, [*texts, "\n\n".join(_comments(source))])


def _docstring(node: ast.AST) -> str:
    if isinstance(node, (ast.Module, *_DEFINITIONS)):
        return ast.get_docstring(node, clean=True) or ""
    return ""


def _strings_of(node: ast.stmt) -> Iterator[str]:
    """The docstrings below a definition; the long strings of a bare statement (an assignment, a call)."""
    if isinstance(node, _DEFINITIONS):
        yield from filter(None, map(_docstring, _statements(node)))
    elif isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign):
        yield from _long_strings(node, least=100)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and all statements inside it, in order; expressions, the bulk of a tree, are not entered."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("body", "orelse", "handlers", "finalbody") and isinstance(value, list):
            for child in value:
                yield from _statements(child)


def _long_strings(node: ast.AST, least: int) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str) and len(child.value) >= least:
            yield textwrap.dedent("\n".join(child.value.expandtabs().split("\n"))).strip("\n")


def _comments(source: str) -> Iterator[str]:
    """Blocks of comment lines, as paragraphs."""
    block: list[str] = []
    for line in [*source.splitlines(), ""]:
        bare = line.strip()
        if bare.startswith("#") and not bare.startswith(("#!", "#:")):
            block.append(bare.lstrip("#").removeprefix(" "))
        elif block:
            yield from paragraphs("\n".join(block))
            block = []


def paragraphs_text(text: str) -> str:
    """The prose paragraphs of a docstring, separated by blank lines; empty when there is none."""
    return "\n\n".join(paragraphs(text))


def paragraphs(text: str) -> Iterator[str]:
    """The prose paragraphs of a docstring, one line each."""
    current: list[str] = []
    indent = 0
    for line in [*_text_lines(text.expandtabs().split("\n")), ""]:
        depth = len(line) - len(line.lstrip())
        bullet = _BULLET.match(line)
        if current and (not line.strip() or bullet or depth < indent or (depth > indent and len(current) > 1)):
            if clean := _clean(" ".join(current)):
                yield clean
            current = []
        if line.strip():
            current.append(line[bullet.end() :] if bullet else line.strip())
            indent = bullet.end() if bullet else depth


def _text_lines(lines: list[str]) -> Iterator[str]:
    """The lines that may be prose; a blank line stands wherever something was dropped."""
    skipped_indent = -1  # lines deeper than this belong to a dropped block
    doctest = in_dropped_section = False
    for number, line in enumerate(lines):
        bare = line.strip()
        depth = len(line) - len(line.lstrip())
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if not bare:
            doctest = False
            yield ""
            continue
        if skipped_indent >= 0:
            if depth > skipped_indent:
                continue
            skipped_indent = -1
        if _UNDERLINE.match(following) and len(following.strip()) >= min(3, len(bare)) and len(bare) < 60:
            in_dropped_section = bare.lower().rstrip(":") in _DROPPED_SECTIONS
            yield ""
            continue
        doctest = doctest or bare.startswith((">>>", "In [", "$ "))
        if doctest or in_dropped_section or _UNDERLINE.match(line) or _TABLE.match(line):
            yield ""
            continue
        if directive := _DIRECTIVE.match(line):
            if directive.group(2).lower() not in _KEPT_DIRECTIVES:
                skipped_indent = depth
            yield ""
            if skipped_indent < 0 and directive.group(3):
                yield directive.group(3)
            continue
        if _COMMENT_OR_TARGET.match(line):
            skipped_indent = depth
            yield ""
            continue
        if bare.endswith("::"):
            skipped_indent = depth
            line = line.rstrip().removesuffix(":")
        if _PARAMETER.match(line) or _CALL.match(line):
            yield ""
            continue
        if field := _FIELD.match(line) or _GOOGLE_PARAMETER.match(line):
            yield ""
            line = " " * depth + line[field.end() :]
        yield line


def _clean(paragraph: str) -> str:
    """The paragraph without markup, or nothing when it is not prose."""
    for pattern, replacement in _INLINE:
        paragraph = pattern.sub(replacement, paragraph)
    paragraph = paragraph.strip()
    words = paragraph.split()
    if len(words) < LEAST_WORDS or _SYMBOLS.search(paragraph):
        return ""
    if not (paragraph[0].isalpha() or paragraph[0] in "\"'(“‘"):
        return ""
    plain = sum(1 for word in words if _PLAIN_WORD.match(word))
    if not _ENDED.search(paragraph):  # a full stop forgotten, if it is a sentence in every other respect
        return f"{paragraph}." if _ENDABLE.search(paragraph) and plain >= max(8, 0.85 * len(words)) else ""
    return paragraph if plain >= PLAIN_SHARE * len(words) else ""
