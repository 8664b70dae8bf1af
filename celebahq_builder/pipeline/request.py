"""The arguments of a build, read and checked before torch is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from celebahq_builder import parallel
from celebahq_builder.cluster.connection import check_target
from celebahq_builder.errors import RecipeError, WorkspaceError
from celebahq_builder.limits import MAX_LIST_BYTES
from celebahq_builder.pipeline.recipe import DEFAULT_RECIPE, BuildRecipe, resolve
from celebahq_builder.pipeline.stage import BuildInputs
from celebahq_builder.run_directory.shard import Shard
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.official import RESOLUTION, archives, read_image_list
from celebahq_builder.sources.photo import PhotoSource, listed_photos, subset
from celebahq_builder.storage import read_text, sha256

PHOTOS = "photos"
"""Value of the argument `redo` that deletes only results of photos that were removed or changed."""


class BuildOptions(TypedDict, total=False):
    """The arguments of `build.build` apart from source and run directory, which describes them."""

    recipe: BuildRecipe | str | Path
    overrides: Mapping[str, object] | None
    keep: int | None
    resolution: int | None
    seed: int | None
    labels: bool | None
    workers: int | None
    device: str
    cluster: Path | str | None
    until: str
    start: str | None
    redo: str | None
    limit: int | None
    ids: Path | str | Iterable[str] | None
    image_list: Path | str | None
    deltas: Path | str | None
    shard: str | tuple[int, int] | None


@dataclass(frozen=True)
class BuildRequest:
    """The arguments of `build.build`, read and checked."""

    workspace: Workspace
    source: PhotoSource
    recipe: BuildRecipe
    origins: dict[str, str]
    """Source of each setting that is not a default; see `recipe.resolve`."""
    workers: int | None
    """None: one per core, and on GPUs no more than their memory holds."""
    device: str
    cluster: str | None
    """Address or file of a Dask scheduler whose workers run the batches; None for processes of this machine."""
    limit: int | None
    """Number of photos asked for; None if the source has no more."""
    ids: str | None
    """Hash of the ids asked for."""
    until: str
    start: str | None
    redo: str | None
    """Stage whose results, and those of later stages, are deleted first."""
    redo_photos: bool
    """True if results of photos that were removed or changed are deleted."""
    deltas: Path | None
    """Folder of the official deltas."""
    shard: Shard | None = None
    """The part of the batches to build; None builds all, selects and packs."""

    @property
    def inputs(self) -> BuildInputs:
        """The inputs on which results depend, apart from the settings of the stages."""
        return BuildInputs(self.source, self.recipe.resolution, self.recipe.seed, self.deltas)


def make_request(source: PhotoSource, out: Path | str, **options: Unpack[BuildOptions]) -> BuildRequest:
    """Read and check the arguments of a build, see `build.build`; imports no torch.

    Raises:
        RecipeError: arguments that cannot be used, or contradict each other.
        SourceError: the image list cannot be read, or the source lacks photos that were asked for.
    """
    workspace, recipe, origins = check_options(out, **options)
    names, cluster = read_ids(options.get("ids")), options.get("cluster")
    deltas, image_list = _official_paths(options)
    if image_list:
        source = listed_photos(source, read_image_list(image_list))
    chosen = subset(source, ids=names)
    source = subset(chosen, limit=options.get("limit"))
    request = BuildRequest(
        workspace=workspace,
        source=source,
        recipe=recipe,
        origins=origins,
        workers=options.get("workers"),
        device=options.get("device", "auto"),
        cluster=str(cluster) if cluster else None,
        limit=options.get("limit") if len(source.photos) < len(chosen.photos) else None,
        ids=ids_hash(names),
        until=options.get("until", recipe.stages()[-1].name),
        start=options.get("start"),
        redo=None if options.get("redo") == PHOTOS else options.get("redo"),
        redo_photos=options.get("redo") == PHOTOS,
        deltas=deltas,
        shard=wanted_shard(options.get("shard")),
    )
    for stage in recipe.stages():
        stage.check(recipe.settings(stage), request.inputs)
    return request


def check_options(out: Path | str, **options: Unpack[BuildOptions]) -> tuple[Workspace, BuildRecipe, dict[str, str]]:
    """Check the arguments of a build that need no photos, see `build.build`; imports torch only for a named GPU.

    Returns:
        The run directory, the settings, and the origins of those that are no defaults.

    Raises:
        RecipeError: arguments that cannot be used, or contradict each other.
        WorkspaceError: the run directory cannot be used.
    """
    workspace = Workspace(Path(out))
    try:
        workspace.root.exists()
    except OSError as error:
        raise WorkspaceError(
            f"run directory {str(out)[:200]} cannot be used: {error.strerror}; choose another `out`"
        ) from None

    arguments = {
        "select.keep": options.get("keep"),
        "resolution": options.get("resolution"),
        "seed": options.get("seed"),
        "pack.labels": options.get("labels"),
    }
    recipe, origins = resolve(options.get("recipe", DEFAULT_RECIPE), arguments, options.get("overrides"))
    check_official(recipe, *_official_paths(options))
    workers, limit, device = options.get("workers"), options.get("limit"), options.get("device", "auto")
    for argument, value in (("workers", workers), ("limit", limit)):
        if value is not None and value < 1:
            raise RecipeError(f"`{argument}` must be at least 1, got {value}")
    parallel.device_names(device)
    if (cluster := options.get("cluster")) is not None:
        check_target(str(cluster))
    _check_stages(recipe, options)
    if "cuda" in device and cluster is None:  # the devices are those of the workers
        parallel.devices(device)
    _check_shard(recipe, options)
    return workspace, recipe, origins


def _check_stages(recipe: BuildRecipe, options: BuildOptions) -> None:
    """Raise a RecipeError if `until`, `start` and `redo` are no stages of the recipe's method in this order."""
    order = [stage.name for stage in recipe.stages()]
    until, start, redo = options.get("until", order[-1]), options.get("start"), options.get("redo")
    redo = None if redo == PHOTOS else redo
    for argument, name in (("until", until), ("start", start), ("redo", redo)):
        if name is not None and name not in order:
            raise RecipeError(
                f'`{argument}` {name} is no stage of method = "{recipe.method}"; its stages are {", ".join(order)}'
            )
    for argument, name in (("start", start), ("redo", redo)):
        if name is not None and order.index(name) > order.index(until):
            raise RecipeError(f"`{argument}` {name} comes after `until` {until}; the order is {', '.join(order)}")
    if start and redo and order.index(start) > order.index(redo):
        raise RecipeError(f"`start` {start} comes after `redo` {redo}, and needs its results; leave out `start`")


def _check_shard(recipe: BuildRecipe, options: BuildOptions) -> None:
    """Raise a RecipeError if there is no such shard, or other arguments concern the whole run."""
    shard, start = wanted_shard(options.get("shard")), options.get("start")
    if shard is None:
        return
    if options.get("redo"):
        raise RecipeError(f"`redo` {options['redo']} concerns the whole run: give it without `shard` {shard} first")
    if start and start not in [stage.name for stage in recipe.photo_stages()]:
        raise RecipeError(f"`start` {start} works on all photos; give it without `shard` {shard}")
    if options.get("cluster") is not None:
        raise RecipeError("`cluster` and `shard` both divide the work over machines; give one of them")


def wanted_shard(value: str | tuple[int, int] | None) -> Shard | None:
    """Return the shard that an argument names; None for the whole run."""
    return None if value is None else Shard.parse(value)


def _official_paths(options: BuildOptions) -> tuple[Path | None, Path | None]:
    """Return the folder of the official deltas, and the official image list."""
    deltas, image_list = options.get("deltas"), options.get("image_list")
    return (Path(deltas) if deltas else None), (Path(image_list) if image_list else None)


def check_official(recipe: BuildRecipe, deltas: Path | None, image_list: Path | None) -> None:
    """Check that a build with the official image list has the method and the resolution that it needs.

    Raises:
        RecipeError: deltas without a list, or either without the exact method at 1024 px.
        SourceError: the folder of deltas holds none.
    """
    if deltas is None and image_list is None:
        return
    argument = "`deltas`" if deltas else "`image_list`"
    if image_list is None:
        raise RecipeError(
            f"`deltas` {deltas} needs `image_list` FILE too: the image_list.txt that comes with them says which photo "
            "each belongs to"
        )
    if recipe.method != "exact":
        raise RecipeError(
            f'{argument} needs the bytes of the authors\' tool, method = "exact", but the recipe says '
            f'"{recipe.method}"; give `recipe` official-deltas'
        )
    if recipe.resolution != RESOLUTION:
        raise RecipeError(
            f"{argument} needs resolution = {RESOLUTION}, got {recipe.resolution}; leave out `resolution`"
        )
    if deltas is not None:
        archives(deltas)


def read_ids(ids: Path | str | Iterable[str] | None) -> frozenset[str] | None:
    """Return a set of photo names: as given, or one per line of a file, without empty lines and comments (#).

    Raises:
        RecipeError: the file cannot be read, or there are no names.
    """
    if ids is None:
        return None
    if isinstance(ids, (str, Path)):
        try:
            ids, where = read_text(Path(ids), MAX_LIST_BYTES).splitlines(), f" {ids}"
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
            raise RecipeError(f"`ids` {ids} cannot be read: {reason}; give one id or file name per line") from None
    else:
        where = ""
    names = frozenset(line.strip() for line in ids if line.strip() and not line.strip().startswith("#"))
    if not names:
        raise RecipeError(f"`ids`{where} names no photos; give one id or file name per line")
    return names


def ids_hash(ids: frozenset[str] | None) -> str | None:
    """Return a hash of a set of ids, or None for none."""
    return None if ids is None else sha256("\n".join(sorted(ids)).encode())
