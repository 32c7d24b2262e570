"""Knows which names of licences the hub of Hugging Face takes."""

from __future__ import annotations

import re

#: Identifiers of the hub's list (huggingface.co/docs/hub/repositories-licenses).
LISTED = (
    "afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0"
    " bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5"
    " cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0"
    " cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0"
    " cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0"
    " etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community"
    " h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4"
    " lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 pddl postgresql"
    " unlicense unknown wtfpl zlib"
)
KNOWN = frozenset(LISTED.split())


def metadata_of(licence: str | None) -> dict[str, str]:
    """Return the keys of a card's metadata for a licence.

    - licence: as a user has named it; None or empty: nobody has
    """
    name = (licence or "").strip()
    if name.casefold() in KNOWN:
        return {"license": name.casefold()}
    # The hub takes names of its list alone, and beside `other` an identifier for any other one.
    other = re.sub(r"[^a-z0-9.]+", "-", name.casefold()).strip("-.")
    return {"license": "other", **({"license_name": other} if other not in ("", "other") else {})}
