import gzip
import hashlib
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from browsers import reserved_port
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays
from make_samples import choose
from PIL import Image

from workbench import data, models
from workbench.data import digits, readers, registry, remote, samples


def idx_bytes(array):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def put_mnist(home, n=20, seed=0, split="t10k"):
    rng = np.random.default_rng(seed)
    home.mkdir(parents=True, exist_ok=True)
    for kind, array in (
        ("images-idx3", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)),
        ("labels-idx1", rng.integers(0, 10, n, dtype=np.uint8)),
    ):
        # mtime=0: the same bytes, hence the same hash, in every run
        packed = gzip.compress(idx_bytes(array), mtime=0)
        (home / f"{split}-{kind}-ubyte.gz").write_bytes(packed)


def put_cifar10(home, files=remote.CIFAR_BATCHES, n=4):
    home.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for file in files:
        records = rng.integers(0, 256, (n, readers.CIFAR_RECORD), dtype=np.uint8)
        records[:, 0] %= 10
        (home / file).write_bytes(records.tobytes())


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv(remote.VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def no_network(monkeypatch):
    def fail(*arguments):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(remote, "_fetch", fail)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of the folder tmp_path/served; knows what was asked of it, and can wait."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = tmp_path / "served"
    served.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            assert self.server.go.wait(300)
            super().do_GET()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served)) as web:
        web.asked, web.go, web.folder = [], threading.Event(), served
        web.go.set()
        web.url = f"http://127.0.0.1:{web.server_port}/"
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        yield web
        web.shutdown()
        thread.join()


def nobody_there():
    """A url that refuses connections."""
    return f"http://127.0.0.1:{reserved_port()}/"


def file_hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def served_hashes(folder):
    paths = [folder / f"{file}.gz" for file in remote.IDX_FILES]
    return tuple(file_hash(path) if path.exists() else "0" * 64 for path in paths)


# --- the table and the contract -------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", data.available())
@pytest.mark.filterwarnings("ignore:cifar10. the training set")
def test_set_keeps_the_contract(name, split, no_network):
    if not data.present(name, split):
        pytest.skip(f"{name} is not in the data folder")
    ds = data.load(name, split, limit=1500)
    row = data.info(name)
    assert len(ds) == min(1500, row.splits[split])
    assert (ds.name, ds.split, ds.shape, ds.classes) == (name, split, row.shape, row.classes)
    assert (ds.images.dtype, ds.labels.dtype) == (torch.float32, torch.int64)
    assert set(ds.labels.tolist()) == set(range(10))
    assert 0 <= ds.images.min() < ds.images.max() <= 1
    # bytes or sixteenths: nothing is lost when pixels are stored as 8 bit
    levels = ds.images * (16 if name == "digits" else 255)
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    first = data.load(name, split, limit=7)
    assert torch.equal(first.images, ds.images[:7])
    assert torch.equal(first.labels, ds.labels[:7])


def test_digits_never_change_and_their_test_set_is_balanced():
    train, test = (data.load("digits", split) for split in ("train", "test"))
    assert [train.sha256(), test.sha256()] == [
        "d2cbc2d550720acd8e4c48c24a2f38550f7d2915c70057c9b2d73907ef0bd7c8",
        "b3efbc4658c6ffa51dfed5644a2afd656400738bf2b617efc38f086f5e01dea4",
    ]
    assert torch.bincount(test.labels).tolist() == [36] * 10
    target = np.repeat(np.arange(10), 50)
    rows = [digits.split_rows(target, split) for split in ("train", "test")]
    assert sorted(np.concatenate(rows)) == list(range(500))


def test_listing_needs_no_torch():
    code = (
        "import sys; from workbench import data; data.available(); data.info('mnist');"
        "data.present('cifar10'); print([m for m in ('torch', 'pandas', 'sklearn', 'PIL') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("mnits",), {}, ["'mnits'", "mean 'mnist'", "folder:PATH"]),
        ((None,), {}, ["None", "digits"]),
        (("digits", "tset"), {}, ["split", "'tset'", "mean 'test'"]),
        (("digits", "test", 0), {}, ["limit", "at least 1", "0"]),
        (("digits", "test", 2.5), {}, ["limit", "2.5"]),
        (("digits",), {"sede": 1}, ["load('digits')", "'sede'", "split, limit"]),
        (("shapes",), {"sede": 1}, ["'sede'", "mean 'seed'", "correlate, cue_conflict"]),
    ],
)
def test_load_names_what_is_wrong(arguments, options, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are the check
        data.load(*arguments, **options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_folder_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(remote.VARIABLE, str(tmp_path))
    assert data.folder() == tmp_path
    monkeypatch.delenv(remote.VARIABLE)
    assert data.folder().name == "dnn-workbench"


# --- ImageDataset ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(5, 4, 6), (5, 1, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3), (5, 3, 4, 6)]
)
def test_from_arrays_takes_every_layout(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ds = data.ImageDataset.from_arrays(pixels, [0, 1, 2, 0, 1])
    assert ds.images.shape == (5, 3 if 3 in shape else 1, 4, 6)
    first = np.moveaxis(pixels[0], -1, 0) if shape[-1] == 3 else pixels[0].squeeze()
    assert np.array_equal((ds.images[0] * 255).round().squeeze().numpy(), first)


@pytest.mark.parametrize(
    ("images", "labels", "error", "word"),
    [
        (np.full((2, 4, 4), 255.0), [0, 1], ValueError, r"\[0, 1\]"),
        (np.full((2, 4, 4), -0.5), [0, 1], ValueError, r"\[0, 1\]"),
        (np.full((2, 4, 4), np.nan), [0, 1], ValueError, "nan"),
        (np.zeros((2, 4, 4), dtype=np.int64), [0, 1], TypeError, "int64"),
        (np.zeros((4, 4)), [0, 1], ValueError, r"\(4, 4\)"),
        (np.zeros((2, 5, 4, 4)), [0, 1], ValueError, "channels"),
        (np.zeros((2, 4, 4)), [0, 1, 1], ValueError, "2 labels"),
        (np.zeros((2, 4, 4)), [0.0, 1.0], TypeError, "whole numbers"),
        (np.zeros((2, 4, 4)), [0, 2], ValueError, r"0\.\.1"),
        (np.zeros((2, 4, 4)), [0, -2], ValueError, r"0\.\.1"),
    ],
)
def test_from_arrays_rejects(images, labels, error, word):
    with pytest.raises(error, match=word):
        data.ImageDataset.from_arrays(images, labels, ["a", "b"])


def test_rows_keep_their_factors():
    ds = data.load("shapes", limit=30)
    chosen = ds[ds.labels == 3]
    assert set(chosen.factors["shape"]) == {ds.classes[3]}
    assert len(chosen.factors) == len(chosen) == 3
    picked = ds.sample(2, per_class=True, seed=1)
    assert [ds.classes[k] for k in picked.labels] == picked.factors["shape"].tolist()


# --- readers --------------------------------------------------------------------------

IMAGES_OR_LABELS = st.one_of(
    numpy_arrays(np.uint8, st.tuples(*[st.integers(0, 4)] * 3)),
    numpy_arrays(np.uint8, st.integers(0, 20)),
)


def write_idx(folder, array, zipped):
    content = gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array)
    path = folder / "file"
    path.write_bytes(content)
    return path, content


@given(array=IMAGES_OR_LABELS, zipped=st.booleans())
def test_idx_round_trip(tmp_path_factory, array, zipped):
    path, _ = write_idx(tmp_path_factory.getbasetemp(), array, zipped)
    assert np.array_equal(readers.read_idx(path), array)


@given(array=IMAGES_OR_LABELS, zipped=st.booleans(), share=st.floats(0, 1, exclude_max=True))
def test_idx_cut_short_anywhere_is_rejected(tmp_path_factory, array, zipped, share):
    path, content = write_idx(tmp_path_factory.getbasetemp(), array, zipped)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"file.*(truncated|not an idx)"):
        readers.read_idx(path)


WRONG_CHECKSUM = bytearray(gzip.compress(idx_bytes(np.arange(99, dtype=np.uint8))))
WRONG_CHECKSUM[-8] ^= 1


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x00\x00\x0d\x01" + bytes(20), "not an idx"),  # floats
        (b"\x00\x00\x08\x02" + bytes(20), "not an idx"),  # two dimensions
        (b"<html>404 not found</html>", "not an idx"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "truncated"),  # a header that promises 2^96 bytes
        (idx_bytes(np.zeros(3, np.uint8)) + b"\x00", "too long"),
        (b"\x1f\x8b" + bytes(30), "corrupt"),
        (WRONG_CHECKSUM, "corrupt"),
    ],
)
def test_idx_damage_is_named(tmp_path, content, word):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged.*{word}"):
        readers.read_idx(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_cifar_round_trip_and_damage(tmp_path, pack):
    put_cifar10(tmp_path, ["batch"])
    path = tmp_path / "batch"
    content = path.read_bytes()
    records = np.frombuffer(content, np.uint8).reshape(4, -1)
    path.write_bytes(pack(content))
    images, labels = readers.read_cifar10(path, limit=3)
    assert np.array_equal(images.reshape(3, -1), records[:3, 1:])
    assert np.array_equal(labels, records[:3, 0])
    for cut in (0, 1, 3074, len(content) - 1):
        path.write_bytes(pack(content[:cut]))
        with pytest.raises(ValueError, match="batch is truncated"):
            readers.read_cifar10(path)
    path.write_bytes(pack(b"\x0a" + content[1:]))
    with pytest.raises(ValueError, match="label 10 above 9"):
        readers.read_cifar10(path)


# --- downloads ------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.filterwarnings("ignore:.*not the published file")
def test_files_already_there_are_used_and_nothing_is_written(home, no_network, plain):
    put_mnist(home / "mnist")
    if plain:
        for path in list((home / "mnist").iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    before = sorted(home.rglob("*"))
    ds = data.load("mnist", limit=5)
    assert len(ds) == 5
    assert sorted(home.rglob("*")) == before  # no lock either: the folder may be read-only
    assert data.present("mnist")
    assert not data.present("mnist", "train")


def test_file_of_another_hash_is_used_with_a_warning(home, no_network):
    put_mnist(home / "mnist")
    with pytest.warns(UserWarning, match="published") as caught:
        assert len(data.load("mnist")) == 20
    for file, warning in zip(remote.IDX_FILES[2:], caught, strict=True):
        assert f"{file}.gz is not the published file" in str(warning.message)
        assert warning.filename == __file__  # points at the call, not into the package


@pytest.mark.filterwarnings("ignore:.*not the published file")
def test_images_and_labels_must_belong_together(home, no_network):
    put_mnist(home / "mnist", n=20)
    labels = home / "mnist" / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(19, np.uint8))))
    with pytest.raises(ValueError, match=r"t10k-labels.*\(19,\)"):
        data.load("mnist")
    labels.write_bytes(gzip.compress(idx_bytes(np.full(20, 10, np.uint8))))
    with pytest.raises(ValueError, match=r"t10k-labels.*0\.\.9.*labels up to 10"):
        data.load("mnist")


def test_first_use_downloads_the_split_and_the_second_does_not(home, server, monkeypatch):
    put_mnist(server.folder)
    monkeypatch.setitem(remote.IDX_SHA256, "kmnist", served_hashes(server.folder))
    monkeypatch.setitem(remote.URLS, "kmnist", [nobody_there(), server.url])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.load("kmnist")) == 20
        assert len(data.load("kmnist", limit=3)) == 3
    assert server.asked == ["/t10k-images-idx3-ubyte.gz", "/t10k-labels-idx1-ubyte.gz"]


def test_download_with_another_hash_is_deleted_and_said(home, server, monkeypatch):
    put_mnist(server.folder)
    monkeypatch.setitem(remote.URLS, "mnist", [f"{server.url}nothing/", server.url])
    with pytest.raises(FileNotFoundError, match=r"404.*another sha256, which was deleted"):
        data.load("mnist")
    assert [path.name for path in home.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("mnist", "test", ["t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte", "'mnist-sample'"]),
        ("kmnist", "train", ["train-images-idx3-ubyte, train-labels-idx1-ubyte", "'mnist-sample'"]),
        ("cifar10", "test", ["test_batch.bin", "cifar-10-binary.tar.gz", "'shapes'"]),
    ],
)
def test_offline_error_says_what_to_do(home, monkeypatch, name, split, words):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(remote.URLS, name, [nobody_there()])
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, split)
    for word in [*words, str(home / name), "no connection", "WORKBENCH_DATA"]:
        assert word in str(caught.value)


def test_folder_that_cannot_be_made_is_named(home, monkeypatch):
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder should be")
    with pytest.raises(FileNotFoundError, match=r"Not a directory|File exists"):
        data.load("mnist")


FILL = """
import sys
from workbench.data import digits, remote
url, *hashes = sys.argv[1:]
remote.URLS["mnist"], remote.IDX_SHA256["mnist"] = [url], tuple(hashes)
print("ready", flush=True)
print(remote.load_idx("mnist", digits.CLASSES, "test", None).images.sum())
"""


def test_two_processes_fill_one_cache(home, server):
    put_mnist(server.folder)
    server.go.clear()  # no answer before both have started
    command = [sys.executable, "-c", FILL, server.url, *served_hashes(server.folder)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in pair] == ["ready\n"] * 2
    server.go.set()
    sums = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert sums[0] == sums[1] != ""
    assert len(server.asked) == 2  # each file once, though both wanted it


# --- CIFAR-10 -------------------------------------------------------------------------


def pack_cifar10(path):
    put_cifar10(path.parent / "unpacked")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(path.parent / "unpacked", remote.CIFAR_FOLDER)


def test_cifar10_archive_is_fetched_and_unpacked_once(home, server, monkeypatch):
    archive = server.folder / remote.CIFAR_ARCHIVE
    pack_cifar10(archive)
    monkeypatch.setattr(remote, "CIFAR_SHA256", file_hash(archive))
    monkeypatch.setitem(remote.URLS, "cifar10", [server.url])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.load("cifar10")) == 4
        assert len(data.load("cifar10", "train")) == 20
        assert len(data.load("cifar10", "train", limit=6)) == 6
    assert len(server.asked) == 1
    files = {path.name for path in home.rglob("*") if path.is_file()}
    assert files == {".lock", remote.CIFAR_ARCHIVE, *remote.CIFAR_BATCHES}


def test_cifar10_archive_put_there_by_hand_is_unpacked(home, monkeypatch):
    archive = home / "cifar10" / remote.CIFAR_ARCHIVE
    archive.parent.mkdir(parents=True)
    pack_cifar10(archive)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(remote.URLS, "cifar10", [nobody_there()])
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary.tar.gz has another sha256"):
        data.load("cifar10")
    assert archive.is_file()
    assert not (home / "cifar10" / remote.CIFAR_FOLDER).exists()
    monkeypatch.setattr(remote, "CIFAR_SHA256", file_hash(archive))
    assert len(data.load("cifar10")) == 4


def test_partial_cifar10_is_used_with_one_warning(home, no_network):
    put_cifar10(home / "cifar10" / remote.CIFAR_FOLDER, ["data_batch_1.bin", "test_batch.bin"])
    with pytest.warns(UserWarning, match="partial: data_batch_2.bin.* not there") as caught:
        assert len(data.load("cifar10", "train")) == 4
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.load("cifar10", "test")) == 4
    (home / "cifar10" / remote.CIFAR_FOLDER / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch.bin not in .*\(remove "):
        data.load("cifar10")


# --- folder:PATH ----------------------------------------------------------------------


def put_pictures(root, counts, size=(6, 4), suffix="png"):
    for k, (name, n) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(n):
            colour = (40 * k, 10 * i, 200)
            Image.new("RGB", size, colour).save(root / name / f"{i}.{suffix}")


def test_folder_takes_classes_in_turn(tmp_path):
    put_pictures(tmp_path, {"dog": 3, "cat": 2})
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / ".git").mkdir()
    name = f"folder:{tmp_path}"
    ds = data.load(name)
    assert ds.classes == ("cat", "dog")
    assert ds.labels.tolist() == [0, 1, 0, 1, 1]
    assert ds.shape == (3, 4, 6)  # height before width
    expected = torch.tensor([0, 10, 200]) / 255
    assert torch.allclose(ds.images[3], expected[:, None, None].expand(3, 4, 6))
    assert torch.equal(data.load(name, limit=2).images, ds.images[:2])
    assert data.load(name, channels=1, size=5).shape == (1, 5, 5)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "gif"])
def test_folder_reads_every_format(tmp_path, suffix):
    put_pictures(tmp_path, {"a": 1}, suffix=suffix)
    blue = data.load(f"folder:{tmp_path}").images[0, 2]
    assert torch.allclose(blue, torch.full((4, 6), 200 / 255), atol=0.02)


def odd(root):
    Image.new("RGB", (9, 9)).save(root / "a" / "1.png")


@pytest.mark.parametrize(
    ("spoil", "options", "word"),
    [
        (odd, {}, r"4x6 but .*1\.png is 9x9.*pass size"),
        (lambda root: None, {"split": "train"}, "no 'train' split"),
        (lambda root: None, {"channels": 2}, "channels.*2"),
        (lambda root: None, {"size": 0}, "size.*0"),
    ],
)
def test_folder_names_what_is_wrong(tmp_path, spoil, options, word):
    put_pictures(tmp_path, {"a": 2})
    spoil(tmp_path)
    with pytest.raises(ValueError, match=word):
        data.load(f"folder:{tmp_path}", **options)


def test_folder_without_classes_or_missing(tmp_path):
    with pytest.raises(ValueError, match="one sub-folder a class"):
        data.load(f"folder:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.load(f"folder:{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="in load only"):
        data.info(f"folder:{tmp_path}")


def test_folder_picture_is_stored_upright(tmp_path):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: shown 4 wide and 6 high
    Image.new("RGB", (6, 4)).save(tmp_path / "a" / "photo.jpg", exif=exif)
    assert data.load(f"folder:{tmp_path}").shape == (3, 6, 4)


def test_a_row_of_the_table_is_all_it_takes(monkeypatch):
    def load(split, limit, shade=0):
        return data.ImageDataset.from_arrays(np.full((2, 3, 3), shade, np.uint8), [0, 1])

    facts = {"classes": ("0", "1"), "shape": (1, 3, 3), "splits": {"test": 2}, "embedded": True}
    row = registry.DatasetInfo(
        name="mine", title="Mine", licence="MIT", source="here", loader=load, **facts
    )
    monkeypatch.setitem(registry.TABLE, "mine", row)
    assert data.load("mine", shade=255).images.min() == 1
    assert "mine" in data.available()


# Samples


@pytest.mark.parametrize(
    ("name", "whole"), [("mnist-sample", "mnist"), ("fashion-sample", "fashion_mnist")]
)
def test_a_sample_is_balanced_and_a_part_of_the_whole(name, whole, real_set):
    assert data.info(name).sample_of == whole
    for split, n in samples.SPLITS.items():
        some, all_ = data.load(name, split), real_set(whole, split=split)
        assert (len(some), some.classes) == (n, all_.classes)
        assert some.labels.bincount().tolist() == [n // 10] * 10
        rows = choose(all_.labels.numpy(), n)
        assert torch.equal(some.images, all_.images[rows])
        assert torch.equal(some.labels, all_.labels[rows])


@pytest.mark.parametrize("name", ["mnist-sample", "fashion-sample"])
def test_a_sample_needs_nothing_and_the_models_of_the_whole_take_it(name, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    assert data.present(name)
    images = data.load(name)
    assert images.name == name
    model = models.load(f"{data.info(name).sample_of}/cnn")
    assert models.measure(model, images)["test_correct"] > 0.9 * len(images)


def test_an_absent_whole_offers_its_sample(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))

    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr("workbench.data.remote._download", offline)
    for name, other in (("mnist", "mnist-sample"), ("fashion_mnist", "fashion-sample")):
        with pytest.raises(FileNotFoundError, match=f"Or use '{other}' meanwhile"):
            data.load(name)
