"""The types of `dataset=`: how each data set is found and prepared, and what recommended it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from latent_common.errors import UserError

if TYPE_CHECKING:
    from latent_env.data import Dataset, Problems, Source, Splitting
    from latent_env.data.augmentation import Augmentation


@dataclass(frozen=True)
class Place:
    """Where data sets lie, where they are kept prepared, and what validation may hold."""

    data_root: Path
    prepared: Path
    track: str = "auto"

    @classmethod
    def of(cls, data_root: str, prepared: str, track: str) -> Place:
        """From what a user wrote."""
        return cls(Path(data_root).expanduser(), Path(prepared).expanduser(), track)

    def below(self, root: str, holds: str, example: str) -> Path:
        """The folder that a user named as ``dataset.root``; an absolute one replaces ``data_root``."""
        if not root:
            raise UserError(
                f"dataset.root is missing: name the folder that holds {holds}, for example `{example}`"
            )
        return self.data_root / Path(root).expanduser()


@dataclass
class DatasetDefaults:
    """What recommended a data set on a machine without a GPU; other groups refer to it.

    Autoencoders are trained briefly on purpose: one that reconstructs too well reproduces lesions, and the
    detector loses the error that it looks at (on phantom's validation split, 27.5 dB found more than 32.6).
    """

    latent: str = "spatial"
    latent_size: int = 8
    prototypes: int = 100
    autoencoder_steps: int = 1000
    detector_steps: int = 800
    agent_steps: int = 16000
    pooled: str = "top"  # of reconstruction errors
    local: bool = True  # whether anomalies are changes of a part, as synthetic ones are


@dataclass
class AugmentConfig:
    """Random changes of training images after which a normal image is still normal."""

    flip_horizontal: bool | None = False  # null: what recommended the category
    flip_vertical: bool | None = False
    shift: float = 0.0  # most, as a share of the side
    rotation: float = 0.0  # most, in degrees
    brightness: float = 0.0  # most, as a share


@dataclass
class DatasetConfig:
    """A data set: how to load it, and what recommended it."""

    name: str = MISSING
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    recommended: DatasetDefaults = field(default_factory=DatasetDefaults)

    def load(self, place: Place) -> Dataset:
        """The images; those that come from files stay on disk until they are looked at."""
        raise TypeError(f"{type(self).__name__} doesn't say how to load {self.name} from {place}")

    def augmentation(self) -> Augmentation:
        """The random changes that suit it."""
        from latent_env.data.augmentation import Augmentation

        defaults = self.has_no_orientation()
        given = {key: defaults if value is None else value for key, value in asdict(self.augment).items()}
        return Augmentation(**given)

    def has_no_orientation(self) -> bool:
        """Whether to flip images where the user doesn't say."""
        return False

    def settings(self) -> dict[str, Any]:
        """What a stage's outcome depends on, beside the images themselves."""
        kept = asdict(self)
        for key in ("recommended", *LOCATION):  # recommended only matters through the values of other groups
            kept.pop(key, None)
        return {**kept, "augment": asdict(self.augmentation())}


LOCATION = ("root", "normal_dir", "abnormal_dir", "normal_test_dir", "mask_dir", "trust_pickle", "on_error")
"""Keys that say where images lie: the same images from elsewhere are the same."""


@dataclass
class DigitsConfig(DatasetConfig):
    """scikit-learn's handwritten digits."""

    normal: Any = 0  # a digit or several
    seed: int = 0

    def load(self, place: Place) -> Dataset:
        """Load the images into memory: they come with scikit-learn."""
        from latent_env.data import load_digits_dataset

        normal = self.normal if isinstance(self.normal, list) else [self.normal]
        return load_digits_dataset(normal, self.seed).for_track(place.track)


@dataclass
class PhantomConfig(DatasetConfig):
    """Procedural CT-like slices."""

    size: int = 64
    train: int = 600
    valid: int = 120
    test: int = 300
    seed: int = 0

    def load(self, place: Place) -> Dataset:
        """Draw the images."""
        from latent_env.data import make_phantom_dataset

        drawn = make_phantom_dataset(self.size, self.train, self.valid, self.test, self.seed)
        return drawn.for_track(place.track)


@dataclass
class FilesConfig(DatasetConfig):
    """A data set that is read from files, and prepared once."""

    size: int = 64
    channels: int | None = None
    valid_fraction: float = 0.15
    group: str | None = None
    limit: int | None = None
    seed: int = 0
    on_error: str = "stop"

    def source(self, place: Place, splitting: Splitting, problems: Problems) -> Source:
        """Find the files and sort them into splits."""
        raise TypeError(f"{self.name} has no files: {(place, splitting, problems)}")

    def load(self, place: Place) -> Dataset:
        """Find the files, and prepare them unless that was done before."""
        from latent_env.data import Problems, Splitting, prepare

        splitting = Splitting(place.track, self.seed, self.valid_fraction, self.group, self.limit)
        problems = Problems(self.on_error)
        source = self.source(place, splitting, problems)
        return prepare(source, self.size, place.prepared, problems).for_track(place.track)


@dataclass
class FolderConfig(FilesConfig):
    """Any folder in MVTec's layout, or named by its parts."""

    root: str = MISSING
    normal_dir: Any = None  # a folder or several
    abnormal_dir: Any = None
    normal_test_dir: Any = None
    mask_dir: Any = None

    def source(self, place: Place, splitting: Splitting, problems: Problems) -> Source:
        """Find the files."""
        from latent_env.data import Parts, folder_source

        root = place.below(self.root, "train/good and test/…", "dataset=folder dataset.root=/data/bottle")
        parts = Parts(self.normal_dir, self.abnormal_dir, self.normal_test_dir, self.mask_dir)
        return folder_source(root, self.name, parts, splitting, problems, self.channels)


@dataclass
class NpzConfig(FilesConfig):
    """The user's own ``.npz`` files, one a split."""

    root: str = MISSING
    trust_pickle: bool = False

    def source(self, place: Place, splitting: Splitting, problems: Problems) -> Source:
        """Read the files."""
        from latent_env.data import npz_source

        root = place.below(self.root, "train.npz and test.npz", "dataset=npz dataset.root=/data/mine")
        return npz_source(root, self.name, splitting, problems, self.trust_pickle, self.channels)


@dataclass
class BmadConfig(FilesConfig):
    """A data set of the BMAD benchmark, or one arranged like it."""

    def source(self, place: Place, splitting: Splitting, problems: Problems) -> Source:
        """Find the files."""
        from latent_env.data import bmad_source

        return bmad_source(place.data_root, self.name, splitting, problems, self.channels)


@dataclass
class CategoryConfig(FilesConfig):
    """One category of MVTec AD, PKU GoodsAD or VisA."""

    category: str = ""

    def source(self, place: Place, splitting: Splitting, problems: Problems) -> Source:
        """Find the files."""
        from latent_env.data import GOODSAD, MVTEC, collection_source, visa_source

        if self.name == "visa":
            return visa_source(place.data_root, self.category, splitting, problems, self.channels)
        collection = {"mvtec": MVTEC, "goodsad": GOODSAD}[self.name]
        return collection_source(
            collection, place.data_root, self.category, splitting, problems, self.channels
        )

    def has_no_orientation(self) -> bool:
        """MVTec AD's textures do."""
        from latent_env.data import TEXTURES

        return self.name == "mvtec" and self.category in TEXTURES


@dataclass
class OneClassConfig(FilesConfig):
    """MNIST or CIFAR-10 with one class, or several, as normal."""

    normal: Any = 0

    def source(self, place: Place, splitting: Splitting, problems: Problems) -> Source:  # noqa: ARG002
        """Read the archive; a damaged one is of no use, whatever ``on_error`` says."""
        from latent_env.data import cifar10_source, mnist_source

        read = {"mnist": mnist_source, "cifar10": cifar10_source}[self.name]
        return read(place.data_root, self.normal, splitting)
