"""Derives right and wrong answers from gold answers, in many notations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from random import Random

INTEGER = re.compile(r"[+-]?\d+")
DECIMAL = re.compile(r"[+-]?\d*\.\d+")
E_NOTATION = re.compile(r"([+-]?[\d.]+)e([+-]?\d+)")
FRACTION = re.compile(r"(-?)\\d?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?")
TUPLE = re.compile(r"\(([^()]*)\)|\\left\(([^()]*)\\right\)")
UNITS = (
    r"\text{ cm}",
    r"\,\mathrm{km}",
    r" \text{ dollars}",
    r"\ \text{m}^2",
    r" \mathrm{~kg}",
    " apples",
    r"\text{ erg/s}",
)


def _bare(gold: str) -> str:
    """Returns an integer or decimal without separators and currency, and any other gold as it is."""
    bare = gold.replace(r"\$", "").replace(r",\!", "").replace(" ", "")
    return re.sub(r",(?=\d{3}(?!\d))", "", bare) if re.fullmatch(r"\d{1,3}(,\d{3})+", bare) else bare


def right(gold: str, rng: Random) -> Iterator[str]:
    """Yields answers that mean the same as the gold one."""
    yield from (gold, f"${gold}$", f" {gold} ", rf"\displaystyle {gold}")
    bare = _bare(gold)
    if INTEGER.fullmatch(bare):
        yield from _integers(bare, rng)
    elif DECIMAL.fullmatch(bare):
        yield from (
            f"{bare}0",
            bare.replace("-.", "-0.").lstrip("+"),
            bare + rng.choice(UNITS),
            f"x = {bare}",
        )
        yield f"0{bare}" if bare.startswith(".") else bare
    elif power := E_NOTATION.fullmatch(gold):
        yield from _powers(power[1], int(power[2]), rng)
    elif fraction := FRACTION.fullmatch(gold):
        sign, top, under = fraction.groups()
        if not gold.startswith(rf"{sign}\frac{{") and len(top) > 1:  # \frac43, written without braces
            return
        yield from (
            rf"{sign}\dfrac{{{top}}}{{{under}}}",
            rf"{sign}\tfrac{{{top}}}{{{under}}}",
            f"{sign}{top}/{under}",
        )
        yield from (
            rf"\frac{{{sign}{top}}}{{{under}}}",
            rf"x = {gold}",
            rf"{sign}\frac{{{2 * int(top)}}}{{{2 * int(under)}}}",
        )
        yield str(Decimal(f"{sign}{top}") / Decimal(under))[:14]
    yield from _notations(gold)


def _integers(bare: str, rng: Random) -> Iterator[str]:
    number = int(bare)
    yield from (
        f"{number}.0",
        f"{number}.",
        f"{number}.00",
        f"x={number}",
        rf"\text{{Total}} = {number}",
        rf"\${number}",
    )
    yield from (f"{number}{unit}" for unit in UNITS)
    yield from (
        rf"{number}\%",
        f"{2 * number}/2",
        rf"\frac{{{3 * number}}}{{3}}",
        rf"\text{{{number}}}",
        rf"\mathbf{{{number}}}",
    )
    if number < 0:
        yield f"−{-number}"
    if abs(number) >= 1000:
        grouped = f"{number:,}"
        yield from (grouped.replace(",", mark) for mark in (",", "{,}", r"\,", r",\!", r"\;", "\u202f"))
        yield from (rf"\${grouped}", f"{grouped} units", f"{grouped}.00")


def _powers(mantissa: str, exponent: int, rng: Random) -> Iterator[str]:
    times = rng.choice((r"\times", r"\cdot", r" \times ", "×"))
    yield from (
        rf"{mantissa} {times} 10^{{{exponent}}}",
        rf"{mantissa}\times10^{exponent}",
        f"{mantissa}E{exponent}",
    )
    yield from (f"{mantissa} × 10^{exponent}", rf"{mantissa} \, \times \, 10^{{{exponent}}} \text{{ erg/s}}")
    yield rf"{mantissa} \times 10^{{{exponent}}} \, \mathrm{{cm}} \, \mathrm{{s}}^{{-1}}"
    yield f"{Decimal(f'{mantissa}e{exponent}'):f}"
    yield rf"x = {Decimal(mantissa) * 10} \times 10^{{{exponent - 1}}}"
    yield mantissa + "×10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _notations(gold: str) -> Iterator[str]:
    changes = {
        r"^\circ": ("°", r"^{\circ}", r" \text{ degrees}", r"^\circ \text{C}", ""),
        r"\frac": (r"\dfrac", r"\tfrac"),
        "pmatrix": ("bmatrix",),
        r"\pi": ("π", r"{\pi}"),
        r"\infty": ("∞", r"{\infty}"),
        "(": (r"\left(", r"\bigl("),
        r"\pm": ("±",),
        "x=5": ("5", "x = 5", r"x\ =\ 5"),
        r"x \in ": ("", "x∈"),
        r"\text": (r"\textbf", r"\mathrm"),
        r"\mbox": (r"\text",),
        ", ": (",", r",\ "),
        r" \cup ": (" \u222a ", r"\cup"),
    }
    for old, news in changes.items():
        if old in gold and "left" not in gold and not (old == "(" and ("[" in gold or "]" in gold)):
            for new in news:
                changed = gold.replace(old, new)
                if old == "(":
                    changed = changed.replace(
                        ")", new.replace("left", "right").replace("bigl", "bigr").replace("(", ")")
                    )
                yield changed
    word = re.fullmatch(r"\\text\{\(?(\w+)\)?\}", gold)
    if word:
        yield from (
            word[1],
            rf"\text{{{word[1].lower()}}}",
            rf"\textbf{{{word[1]}}}",
            rf"\text{{{word[1]}.}}",
        )
    if base := re.fullmatch(r"(\d+)_\{?(\d)\}?", gold):
        yield from (
            f"{base[1]}_{{{base[2]}}}",
            f"({base[1]})_{base[2]}",
            rf"{base[1]}_{{\text{{base }}{base[2]}}}",
        )
    if re.fullmatch(r"-?\w+(?: ?, ?-?\w+)+", gold):
        parts = [part.strip() for part in gold.split(",")]
        yield from (", ".join(reversed(parts)), r" \text{ and } ".join(parts), rf"\{{{','.join(parts)}\}}")
        yield r" \text{ or } ".join(f"x={part}" for part in parts)
    terms = re.fullmatch(r"(\w+\^?\w*) ([+-]) (\w+)", gold)
    if terms:
        yield f"{terms[2]}{terms[3]} + {terms[1]}".lstrip("+")


def wrong(gold: str, others: list[str], rng: Random) -> Iterator[str]:
    """Yields answers that do not mean the same as the gold one. `others` are other gold answers."""
    bare = _bare(gold)
    if INTEGER.fullmatch(bare):
        number = int(bare)
        yield from (
            str(number + 1),
            str(number - 1),
            f"{number}.5",
            f"{number}1",
            rf"\frac{{{number}}}{{7}}" if number else "7",
        )
        yield from ((str(-number), f"x = {10 * number}", f"{abs(number) + 2}^2") if number else ("5",))
        yield from (
            f"{number} \\pi" if number else "1",
            f"{number}, {number + 1}",
            f"({number}, 0)",
            f"{number}x" if number else "x",
        )
    elif DECIMAL.fullmatch(bare):
        moved = Decimal(bare)
        last = Decimal(1).scaleb(moved.as_tuple().exponent)
        yield from (str(moved + last), str(moved - last), str(-moved), str(moved * 10), str(moved / 10))
    elif power := E_NOTATION.fullmatch(gold):
        mantissa, exponent = power[1], int(power[2])
        yield from (
            f"{mantissa}e{exponent + 1}",
            rf"{mantissa} \times 10^{{{exponent - 1}}}",
            mantissa if exponent else "77",
        )
        yield from (
            rf"{Decimal(mantissa) + Decimal('0.1')} \times 10^{{{exponent}}}",
            rf"-{mantissa} \times 10^{{{exponent}}}",
        )
        yield from (rf"{mantissa} \times 10^{{{-exponent}}}" if exponent else "78", "0", f"{mantissa}e")
    elif fraction := FRACTION.fullmatch(gold):
        sign, top, under = fraction.groups()
        if gold.startswith(rf"{sign}\frac{{"):
            yield from (
                rf"{sign}\frac{{{int(top) + 1}}}{{{under}}}",
                rf"{sign}\frac{{{top}}}{{{int(under) + 1}}}",
            )
            yield from (
                rf"{sign}\frac{{{under}}}{{{top}}}",
                f"{sign}{top}",
                f"{float(sign + top) / float(under):.2f}1",
            )
    elif pair := TUPLE.fullmatch(gold):
        parts = (pair[1] or pair[2]).split(",")
        if len(set(parts)) == len(parts) > 1:
            yield from (
                f"({','.join(reversed(parts))})",
                f"({','.join(parts[:-1])})",
                f"[{','.join(parts)}]" if len(parts) == 2 else "0",
            )
            yield f"({','.join([*parts[:-1], parts[-1] + '+1'])})"
    if not gold.startswith((r"\text", "(", "[", r"\begin")) and "=" not in gold and gold != "0":
        yield from (
            (f"-({gold})", f"{gold} + 1")
            if "," not in gold and r"\cup" not in gold and r"\in" not in gold
            else ()
        )
    if r"\text{(" in gold:
        yield from (rf"\text{{({letter})}}" for letter in "ABCDE" if letter not in gold)
    if base := re.fullmatch(r"(\d+)_\{?(\d)\}?", gold):
        yield from (f"{base[1]}_{int(base[2]) + 1}", f"{int(base[1]) + 1}_{base[2]}")
    if "]" in gold or "[" in gold:
        yield from (
            gold.replace("[", "(").replace("]", ")"),
            gold.replace("(", "[", 1) if "(" in gold else "[0]",
        )
    if "matrix" in gold:
        yield from (
            re.sub(r"\d+", lambda found: str(int(found[0]) + 1), gold, count=1),
            gold.replace(r" \\", r" \\ 0 \\", 1),
        )
    if re.fullmatch(r"-?\w+(?: ?, ?-?\w+)+", gold):
        parts = [part.strip() for part in gold.split(",")]
        yield from (", ".join(parts[:-1]), ", ".join([*parts, "99"]), ", ".join([*parts[:-1], "98"]))
    yield from rng.sample(others, 4)
    yield from ("", "?", r"\text{none}")
