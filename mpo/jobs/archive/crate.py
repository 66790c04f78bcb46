"""The list of an archive's files, as the metadata of a Research Object Crate.

Sources: RO-Crate 1.1, https://w3id.org/ro/crate/1.1, and its profile Process Run Crate 0.5,
https://w3id.org/ro/wfrun/process/0.5: which software made which files. Version 1.1 is the one that
most archives read.
"""

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import quote

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from mpo import provenance
from mpo.jobs.archive.contents import Contents, Finished
from mpo.jobs.archive.formats import described
from mpo.study.config import canonical_json
from mpo.study.files import CHOICE, METRICS, POLICIES, RUN, TABLE_KINDS
from mpo.study.status import RunStatus

NAME, AUTHOR, LICENSE = "mpo-benchmark", "The MPO benchmark authors", "MIT"
"""This software, as in pyproject.toml and CITATION.cff."""

_VERSION, _PROFILE = "1.1", "https://w3id.org/ro/wfrun/process/0.5"


class About(NamedTuple):
    """What only those who publish an archive know."""

    authors: Sequence[str] = ()
    """Names of the people or groups that made the study."""
    license: str = LICENSE
    """SPDX identifier of the licence of the results."""
    published: date | None = None
    """None for the day on which the last run finished."""


def metadata(found: Contents, files: Mapping[str, Mapping[str, Any]], about: About) -> bytes:
    """Returns the content of `ro-crate-metadata.json`: the same bytes for the same arguments.

    Args:
        found: the study.
        files: for each path in the archive, its `bytes` and its `sha256`.
        about: what only those who publish it know.
    """
    crate = ROCrate(version=_VERSION)
    # A term of schema.org that is younger than RO-Crate 1.1.
    crate.metadata.extra_terms["sha256"] = "http://schema.org/sha256"
    for name, checksum in files.items():
        crate.add_file(None, name, properties=described(name, checksum))
    _describe_root(crate, found, about)
    plan: Any = {"@id": "study.json"}
    plan = [plan, {"@id": CHOICE}] if found.tuned_in else plan
    actions = [_training(crate, finished, plan, files) for finished in found.runs]
    actions += [_failure(crate, status, plan) for status in found.missing]
    actions += [_analysis(crate, commit, names) for commit, names in found.commits.items()]
    actions.append(_packing(crate))
    crate.root_dataset["mentions"] = actions
    text = json.dumps(crate.metadata.generate(), indent=1, sort_keys=True)
    return f"{text}\n".encode()


def _describe_root(crate: ROCrate, found: Contents, about: About) -> None:
    root, study = crate.root_dataset, found.study
    last = max(run.record["provenance"]["finished"] for run in found.runs)
    environments = ", ".join(environment.name for environment in study.environments)
    missing = "No planned run is missing."
    if found.missing:
        names = ", ".join(f"{status.run.run_id} ({status.status})" for status in found.missing)
        missing = f"{len(found.missing)} of {len(study.runs)} planned runs are missing: {names}."
    tuned = f"The arms were tuned in study {found.tuned_in}, which is not in this archive."
    tuned = f" {tuned} Its choice is {CHOICE}." if found.tuned_in else ""
    root["name"] = f"Study {study.study}"
    root["description"] = (
        f"Results of a study of Maximum a Posteriori Policy Optimisation (MPO): {len(found.runs)} "
        f"runs in {environments}, with their evaluations, tables and figures. {missing}{tuned}"
    )
    root["datePublished"] = str(about.published or last[:10])
    root["license"] = _license(crate, about.license)
    authors = [_add(crate, f"#author/{quote(n)}", "Person", name=n) for n in about.authors]
    if authors:
        root["author"] = authors if len(authors) > 1 else authors[0]
    root["conformsTo"] = _add(
        crate,
        _PROFILE,
        "CreativeWork",
        name="Process Run Crate",
        version=_PROFILE.rpartition("/")[2],
    )


def _training(
    crate: ROCrate, finished: Finished, plan: Any, files: Container[str]
) -> ContextEntity:
    """A training, of a plan, and the files that it wrote. What evaluated it is not recorded."""
    run, origin, error = finished.run, finished.record["provenance"], finished.record["error"]
    commit = provenance.commit_of(origin)
    packages = {"Python": origin["python"], **origin["packages"]}
    written = (f"{finished.folder}/{name}" for name in (METRICS, POLICIES, RUN))
    return _add(
        crate,
        f"#training/{quote(run.run_id)}",
        "CreateAction",
        name=f"Training of {run.run_id}",
        description=f"{run.total_steps} steps" + (f"; diverged: {error}" if error else ""),
        startTime=origin["started"],
        endTime=origin["finished"],
        instrument=_software(crate, commit, packages),
        object=plan,
        result=[{"@id": quote(path)} for path in written if path in files],
    )


def _failure(crate: ROCrate, status: RunStatus, plan: Any) -> ContextEntity:
    """A training that failed. It left no record of its software."""
    return _add(
        crate,
        f"#training/{quote(status.run.run_id)}",
        "CreateAction",
        name=f"Training of {status.run.run_id}",
        description=f"It ended without results ({status.status}).",
        instrument=_software(crate),
        object=plan,
        actionStatus="http://schema.org/FailedActionStatus",
        error=status.error or status.status,
    )


def _analysis(crate: ROCrate, commit: str, tables: Sequence[str]) -> ContextEntity:
    """The tables that one commit made."""
    return _add(
        crate,
        f"#tables/{quote(commit)}",
        "CreateAction",
        name=f"Tables made at commit {commit}",
        description=", ".join(tables),
        instrument=_software(crate, commit),
        object={"@id": "study.json"},
        result=[{"@id": f"tables/{name}.{end}"} for name in tables for end in TABLE_KINDS],
    )


def _packing(crate: ROCrate) -> ContextEntity:
    version = provenance.packages([NAME]).get(NAME, "of unknown version")
    return _add(
        crate,
        "#packing",
        "CreateAction",
        name="Packing of the study",
        description=f"{NAME} {version} listed the files with their checksums.",
        instrument=_software(crate, provenance.commit()),
        result=crate.metadata,
    )


def _software(
    crate: ROCrate, commit: str | None = None, packages: Mapping[str, str] | None = None
) -> ContextEntity:
    """This software at a commit, with the packages it ran with; both where they are known."""
    needed = [
        _add(
            crate,
            f"#{quote(f'{name}-{version}')}",
            "SoftwareApplication",
            name=name,
            softwareVersion=version,
        )
        for name, version in (packages or {}).items()
    ]
    known = {"softwareVersion": commit, "softwareRequirements": needed}
    digest = hashlib.sha256(canonical_json([commit, packages]).encode()).hexdigest()[:12]
    return _add(
        crate,
        f"#{NAME}-{digest}",
        "SoftwareApplication",
        name=NAME,
        description="A reproducible benchmark pipeline for MPO",
        author=_add(crate, "#authors", "Organization", name=AUTHOR),
        license=_license(crate, LICENSE),
        **{name: value for name, value in known.items() if value},
    )


def _license(crate: ROCrate, identifier: str) -> ContextEntity:
    url = f"https://spdx.org/licenses/{identifier}"
    return _add(crate, url, "CreativeWork", name=identifier, description=f"SPDX: {identifier}")


def _add(crate: ROCrate, identifier: str, kind: str, **properties: Any) -> ContextEntity:
    """The entity with this identifier; made if there is none."""
    if identifier in crate:  # looking for one that is not there would search all entities
        return crate.get(identifier)
    return crate.add(ContextEntity(crate, identifier, {"@type": kind, **properties}))
