"""The end of the report: what a person should know, and where everything comes from."""

from handlers.pages.about import About
from handlers.pages.content import Beside, Facts, Section, Statement, Tone, table_of
from handlers.pages.words import ELLIPSIS, NONE, sentence
from handlers.results import CaseResult
from handlers.values import Severity

DIGEST_DIGITS = 32
"""Digits of a digest that are told: 128 bits tell any two from each other."""

_ORDER = {Severity.FAILURE: 0, Severity.WARNING: 1, Severity.INFO: 2}


def findings_section(result: CaseResult) -> Section | None:
    """Return all findings, the gravest first; None if there are none."""
    findings = sorted(result.findings, key=lambda finding: _ORDER[finding.severity])
    if not findings:
        return None
    if all(finding.severity is Severity.INFO for finding in findings):
        told = tuple(Statement(f"{sentence(f.text)} [{f.code}]", lead="Info:") for f in findings)
        return Section("Findings", told)
    headings = ("severity", "finding", "code")
    rows = tuple((str(f.severity), sentence(f.text), f.code) for f in findings)
    tones = {i: Tone.CAUTION for i, f in enumerate(findings) if f.severity is Severity.FAILURE}
    table = table_of("Findings", headings, rows, words=(0, 1, 2), tones=tones)
    return Section("Findings", (table,))


def provenance_section(about: About) -> Section:
    """Return what the result was made from, by what, with which settings."""
    objects = [(source.what, source.uid or NONE) for source in about.sources]
    objects += [(made.what, made.uid or NONE) for made in about.proposals]
    objects += [
        ("Settings, SHA-256", about.settings_digest[:DIGEST_DIGITS] + ELLIPSIS),
        ("Input, SHA-256", about.fingerprint[:DIGEST_DIGITS] + ELLIPSIS),
    ]
    objects.append(("Every number", "in the structured report (SR), with unit and code"))
    half = (len(objects) + 1) // 2
    left, right = (Facts(tuple(some), 0.25) for some in (objects[:half], objects[half:]))
    return Section("Provenance", (Beside(((left,), (right,)), (0.5, 0.5)),))
