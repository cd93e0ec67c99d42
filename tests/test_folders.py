"""`folder:PATH`: pictures are read as they look on a white page, or counted in a warning."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workbench import data
from workbench.data import pictures

RNG = np.random.default_rng(0)


def load(root, **options):
    return data.load(f"folder:{root}", **options)


def heard(root, **options):
    """The data set, and what was said of it: at most one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = load(root, **options)
    texts = [str(w.message) for w in caught if w.filename == __file__]
    assert len(texts) <= 1
    return ds, "".join(texts)


def put(root, *names, size=(6, 4), colour=(200, 100, 50), **options):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(root / name, **options)


def shown(file, mode="RGB"):
    """A picture read from bytes or from what `save` makes: floats (H, W) or (H, W, 3)."""
    picture, _ = pictures.read(io.BytesIO(file), mode)
    return np.asarray(picture) / 255


def saved(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(pixels, depth, colour, key=None):
    """A PNG of whole numbers (H, W) or (H, W, C), of any depth, with a tRNS chunk `key`."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    h, w = pixels.shape[:2]
    bits = (pixels.reshape(h, -1, 1) >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(h, -1).astype(np.uint8), axis=1)
    out = b"\x89PNG\r\n\x1a\n"
    out += chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0))
    if key is not None:
        out += chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return out + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


# --- as it looks: transparency ------------------------------------------------------------

INK = np.eye(8, dtype=bool)  # black on nothing


def inked(mode):
    """The ink in a mode with an alpha band."""
    alpha = Image.fromarray(INK * np.uint8(255))
    bands = [Image.new("L", (8, 8), 0)] * (len(mode) - 1)
    return Image.merge(mode, [*bands, alpha])


def palette(transparency):
    picture = Image.fromarray(INK.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 0, 0, 0])  # ground and ink of one colour
    return picture, {"transparency": transparency}


def keyed(depth, ink, ground):
    """Grey or RGB in which one colour, that of the ground, is transparent."""
    pixels = np.where(INK[..., None], ink, ground)
    colour = 2 if pixels.shape[2] == 3 else 0
    return png(pixels if colour else pixels[..., 0], depth, colour, np.ravel(ground).tolist())


TRANSPARENT = {
    "RGBA": saved(inked("RGBA"), "PNG"),
    "LA": saved(inked("LA"), "PNG"),
    "palette, one colour": saved(palette(0)[0], "PNG", transparency=0),
    "palette, by colour": saved(palette(0)[0], "PNG", transparency=b"\x00\xff"),
    "GIF": saved(palette(0)[0], "GIF", transparency=0, optimize=False),
    "WebP": saved(inked("RGBA"), "WEBP", lossless=True),
    "TIFF": saved(inked("RGBA"), "TIFF"),
    "AVIF": saved(inked("RGBA"), "AVIF", quality=100) if "AVIF" in Image.SAVE else b"",
    "RGBA of 16 bits": png(np.dstack([np.zeros((8, 8, 3), int), INK * 65535]), 16, 6),
    "RGB": keyed(8, [0, 0, 0], [10, 20, 30]),
    "RGB of 16 bits": keyed(16, [0, 0, 0], [1000, 2000, 60000]),
    "grey": keyed(8, [0], [77]),
    "grey of 16 bits": keyed(16, [0], [777]),
    "grey of 4 bits": keyed(4, [0], [7]),
    "grey of 2 bits": keyed(2, [0], [2]),
    "grey of 1 bit": keyed(1, [0], [1]),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_is_white(name, mode):
    if not TRANSPARENT[name]:
        pytest.skip("Pillow was built without AVIF")
    picture, transparent = pictures.read(io.BytesIO(TRANSPARENT[name]), mode)
    expected = np.where(INK, 0, 255) if mode == "L" else np.where(INK[..., None], 0, [[[255] * 3]])
    assert picture.mode == mode
    assert transparent
    assert np.abs(np.asarray(picture, dtype=int) - expected).max() <= (9 if name == "AVIF" else 0)


@given(st.integers(0, 255), st.integers(0, 255))
def test_what_is_half_transparent_shines_through(grey, alpha):
    picture = Image.new("RGBA", (2, 1), (grey, 0, 255, alpha))
    share = alpha / 255
    expected = share * np.array([grey, 0, 255]) / 255 + (1 - share)
    assert np.abs(shown(saved(picture, "PNG"))[0, 0] - expected).max() <= 1 / 255


def test_transparent_pictures_are_counted_once(tmp_path):
    put(tmp_path, "a/opaque.png")
    Image.new("RGBA", (6, 4), (1, 2, 3, 255)).save(tmp_path / "a" / "opaque too.png")
    assert heard(tmp_path)[1] == ""
    for k in range(5):
        Image.new("RGBA", (6, 4)).save(tmp_path / "a" / f"{k}.png")
    ds, said = heard(tmp_path)
    assert said == (
        f"folder:{tmp_path}: laid on white where transparent: 5 (a/0.png, a/1.png, a/2.png, …)"
    )
    assert float(ds.images[:5].min()) == 1


# --- as it looks: depths, colours, EXIF ---------------------------------------------------

DEEP = RNG.integers(0, 65536, (4, 6))


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


GREY = {
    "PNG": png(DEEP, 16, 0),
    "TIFF": tiff(DEEP.astype(np.uint16)),
    "TIFF, the other way round": tiff(DEEP.astype(np.uint16), byteorder=">"),
    "TIFF, 0 is white": tiff((65535 - DEEP).astype(np.uint16), photometric="miniswhite"),
    "TIFF of floats": tiff((DEEP / 65535).astype(np.float32)),
    "PGM": b"P5\n6 4\n65535\n" + DEEP.astype(">u2").tobytes(),
    "PFM": b"Pf\n6 4\n-1.0\n" + (DEEP[::-1] / 65535).astype("<f4").tobytes(),
    "RGB PNG": png(np.dstack([DEEP] * 3), 16, 2),
    "RGB TIFF": tiff(np.dstack([DEEP] * 3).astype(np.uint16), photometric="rgb"),
}


@pytest.mark.parametrize("name", GREY)
def test_16_bits_and_floats_are_scaled(name):
    read = shown(GREY[name])
    assert read.shape == (4, 6, 3)
    assert np.abs(read - DEEP[..., None] / 65535).max() <= 1 / 255
    if "RGB" not in name:  # of which Pillow keeps the upper 8 bits
        assert np.abs(read - DEEP[..., None] / 65535).max() <= 0.5 / 255 + 1e-6


def test_bits_that_are_few_are_scaled_too():
    twelve = b"P2\n2 1\n4095\n4095 2048\n"
    assert np.abs(shown(twelve, "L") - [[1, 0.5]]).max() < 1 / 255
    assert shown(b"P1\n2 1\n1 0\n", "L").tolist() == [[0, 1]]
    assert shown(saved(Image.fromarray(INK), "TIFF"), "L").tolist() == INK.tolist()
    assert shown(png(np.arange(4)[None], 2, 0), "L").tolist() == [[0, 85 / 255, 170 / 255, 1]]


@pytest.mark.parametrize(
    ("file", "word"),
    [
        (tiff(np.full((4, 6), 9, np.int32)), "32-bit whole numbers"),
        (tiff(np.full((4, 6), 255, np.float32)), r"floats in \[255, 255\], not in \[0, 1\]"),
        (tiff(np.full((4, 6), np.nan, np.float32)), "nan"),
        (
            tiff(np.zeros((3, 4, 6), np.uint16), photometric="rgb", planarconfig="separate"),
            "a plane for each colour",
        ),
    ],
)
def test_numbers_without_a_white_are_not_guessed(tmp_path, file, word):
    put(tmp_path, "a/x.png")
    (tmp_path / "a" / "y.tif").write_bytes(file)
    with pytest.warns(UserWarning, match=rf"cannot be read: 1 \(a/y.tif: .*{word}"):
        assert len(load(tmp_path)) == 1


@pytest.mark.parametrize(
    ("mode", "form"),
    [("CMYK", "JPEG"), ("YCbCr", "JPEG"), ("LAB", "TIFF"), ("CMYK", "TIFF"), ("P", "GIF")],
)
@pytest.mark.parametrize("to", ["L", "RGB"])
def test_other_colour_spaces(mode, form, to):
    orange = Image.new("RGB", (16, 16), (240, 130, 20))
    options = {"quality": 100} if form == "JPEG" else {}
    read = shown(saved(orange.convert(mode), form, **options), to)
    expected = orange.convert(mode).convert("RGB").convert(to)  # P has another orange
    assert np.abs(read - np.asarray(expected) / 255).max() < 0.03


WAYS = {  # EXIF's orientation -> what is stored, of what was seen
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: np.rot90(seen),
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: np.rot90(seen, -1),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("way", WAYS)
def test_pictures_are_upright_however_the_camera_was_held(form, way):
    seen = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = way
    options = {"lossless": True} if form == "WEBP" else {}
    file = saved(Image.fromarray(np.ascontiguousarray(WAYS[way](seen))), form, exif=exif, **options)
    assert np.array_equal(np.round(shown(file) * 255), seen)


EXIF = [
    b"\0\x08\0\2\1\x12\0\3",
    b"MM\0*\0\0\0\x08\0\2\1\x12\0\3",
    b"garbage",
    b"II*\0\xff\xff\xff\xff",
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("start", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("exif", [*EXIF, b"MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\xff\0\0\xff\xff"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_broken_exif_does_not_lose_the_picture(form, exif, start):
    file = saved(Image.new("RGB", (8, 8), (255, 0, 0)), form, exif=start + exif)
    assert np.abs(shown(file) - [1, 0, 0]).max() < 0.02


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read")
@given(st.binary(max_size=40), st.integers(0, 39), st.integers(0, 255))
def test_exif_data_of_any_bytes(content, where, byte):
    exif = bytearray(b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0" + content)
    exif[where % len(exif)] = byte
    file = saved(Image.new("RGB", (6, 4), (255, 0, 0)), "PNG", exif=bytes(exif))
    assert shown(file).shape in [(4, 6, 3), (6, 4, 3)]


# --- which files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        ("JPG", "JPEG"), ("jpe", "JPEG"), ("jfif", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF"),
        ("TIFF", "TIFF"), ("ppm", "PPM"), ("pbm", "PPM"), ("apng", "PNG"), ("dib", "DIB"),
        ("ico", "ICO"), ("jp2", "JPEG2000"), ("jpg", "PNG"), ("jpeg?width=640", "JPEG"),
        ("png.1", "PNG"), ("", "PNG"), ("dat", "PNG"),
    ],
)  # fmt: skip
def test_a_picture_is_told_by_its_content(tmp_path, suffix, form):
    (tmp_path / "a").mkdir()
    name = f"x.{suffix}" if suffix else "x"
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "a" / name, form)
    ds, said = heard(tmp_path)
    assert said == ""
    assert torch.allclose(ds.images[0].mean((1, 2)), torch.tensor([1.0, 0, 0]), atol=0.02)


def test_what_is_no_picture_is_counted_by_kind(tmp_path):
    put(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    for name in ("x.heic", "y.HEIC", "notes.txt", "film.mp4", "README"):
        (tmp_path / "cat" / name).write_bytes(b"something else")
    for name in (".DS_Store", "._1.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / "cat" / name).write_bytes(b"a system's")
    put(tmp_path, "__MACOSX/cat/._1.png", ".ipynb_checkpoints/1.png")
    cut = (tmp_path / "cat" / "2.png").read_bytes()[:-30]
    (tmp_path / "cat" / "2.png").write_bytes(cut)
    (tmp_path / "dog" / "2.png").write_bytes(b"")
    (tmp_path / "dog" / "3.jpg").write_text("<html>404</html>")
    (tmp_path / "dog" / "4.jpg").symlink_to(tmp_path / "gone.jpg")
    ds, said = heard(tmp_path)
    assert ds.classes == ("cat", "dog")
    assert len(ds) == 2
    for word in (
        "register_heif_opener() has been called): 2 (cat/x.heic, cat/y.HEIC)",
        "passed over, not pictures: 3 (1 no suffix, 1 .mp4, 1 .txt)",
        "passed over, cannot be read: 4 (",
        "dog/2.png: an empty file",
        "dog/3.jpg: of no kind that Pillow reads",
    ):
        assert word in said, said
    for word in ("DS_Store", "Thumbs", "MACOSX", "desktop", "._1"):
        assert word not in said


def test_damaged_pictures_alone_are_an_error(tmp_path):
    put(tmp_path, "a/1.jpg", "a/2.jpg")
    for file in (tmp_path / "a").iterdir():
        file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"no picture in .*cannot be read: 2 \(a/1.jpg: \w+"):
        load(tmp_path)


def test_a_picture_too_large_for_memory_is_counted(tmp_path):
    put(tmp_path, "a/1.png")
    huge = struct.pack(">II", 50_000, 50_000)
    small = png(np.zeros((1, 1), int), 8, 0)
    head = b"IHDR" + huge + small[24:29]
    file = small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]
    (tmp_path / "a" / "2.png").write_bytes(file)
    with pytest.warns(
        UserWarning, match=r"a/2.png: Image size \(2500000000 pixels\) exceeds limit"
    ):
        assert len(load(tmp_path)) == 1


def test_a_folder_that_may_not_be_read_is_counted(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "a/locked/2.png")
    inside = type(tmp_path).iterdir

    def refuse(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return inside(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    ds, said = heard(tmp_path)
    assert len(ds) == 1
    assert "passed over, cannot be read: 1 (a/locked: " in said


def test_deeper_pictures_belong_to_their_class_and_links_end(tmp_path):
    put(tmp_path, "cat/1.png", "cat/kittens/2.png", "cat/kittens/small/3.png", "dog/1.png")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    (tmp_path / "other").mkdir()
    put(tmp_path.parent, f"{tmp_path.name} linked/4.png")
    (tmp_path / "fox").symlink_to(tmp_path.parent / f"{tmp_path.name} linked")
    (tmp_path / "other").rmdir()
    ds, said = heard(tmp_path)
    assert ds.classes == ("cat", "dog", "fox")
    assert torch.bincount(ds.labels).tolist() == [3, 1, 1]
    assert "sub-folders, taken as of their class folder" in said
    assert ": 2 (cat/kittens, cat/kittens/small)" in said


# --- classes, order, splits ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("10 2 0 1", "0 1 2 10"),
        ("010 002 100", "002 010 100"),
        ("1 01 2", "01 1 2"),
        ("10 2 b", "10 2 b"),
        ("n02 n10 n1", "n02 n1 n10"),
        ("-1 1 0", "-1 0 1"),
        ("Zebra ant", "Zebra ant"),
    ],
)
def test_class_folders_named_by_numbers_are_in_their_order(tmp_path, names, order):
    for k, name in enumerate(names.split()):
        put(tmp_path, f"{name}/x.png", colour=(k, 0, 99))
    ds = load(tmp_path)
    assert ds.classes == tuple(order.split())
    reds = (ds.images[:, 0, 0, 0] * 255).round().int().tolist()
    assert [names.split()[k] for k in reds] == [ds.classes[k] for k in ds.labels]


@pytest.mark.parametrize(("names", "named"), [("012", False), ("123", True), ("ab", True)])
def test_folders_named_0_to_k_stand_for_the_names_of_a_model(tmp_path, names, named):
    put(tmp_path, *(f"{name}/x.png" for name in names))
    assert load(tmp_path).named is named


def test_files_are_in_the_order_that_people_number_them(tmp_path):
    for k in (10, 9, 1, 2):
        put(tmp_path, f"a/frame{k}.png", colour=(k, 0, 99))
    assert (load(tmp_path).images[:, 0, 0, 0] * 255).round().tolist() == [1, 2, 9, 10]
    assert (load(tmp_path, limit=2).images[:, 0, 0, 0] * 255).round().tolist() == [1, 2]


def test_the_first_n_have_every_class_whatever_lies_between(tmp_path):
    put(tmp_path, "a/5.png", "a/6.png", "b/1.png", "b/2.png")
    for k in range(3):
        (tmp_path / "a" / f"{k}.png").write_bytes(b"damaged")
    ds, _ = heard(tmp_path, limit=2)
    assert ds.labels.tolist() == [0, 1]


def test_a_flat_folder_has_no_classes(tmp_path):
    put(tmp_path, "2.png", "10.png", "1.jpg")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("a,b")
    ds, said = heard(tmp_path)
    assert (ds.classes, ds.labels.tolist(), said) == ((), [-1] * 3, "")
    assert len(ds.sha256()) == 64
    assert len(ds[1:].sample(2)) == 2
    with pytest.raises(ValueError, match="per_class"):
        ds.sample(1, per_class=True)


def test_pictures_beside_class_folders_have_no_label(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png", "group.png")
    ds, said = heard(tmp_path)
    assert (ds.classes, ds.labels.tolist()) == (("cat", "dog"), [0, 1, -1])
    assert said.endswith("beside the class folders, hence without a label: 1 (group.png)")


def test_a_class_without_pictures_keeps_its_number(tmp_path):
    put(tmp_path, "0/a.png", "2/a.png")
    (tmp_path / "1").mkdir()
    ds, said = heard(tmp_path)
    assert (ds.classes, ds.labels.tolist()) == (("0", "1", "2"), [0, 2])
    assert said.endswith("classes without a picture, which keep their number: 1 (1)")
    with pytest.raises(ValueError, match="no picture"):
        load(tmp_path / "1")


def test_folders_of_splits(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/eel/1.png", "val/dog/1.png")
    (train, said), (test, empty) = heard(tmp_path, split="train"), heard(tmp_path)
    assert train.classes == test.classes == ("cat", "dog", "eel")
    assert (train.split, train.labels.tolist(), said) == ("train", [0, 1, 2], "")
    assert (test.split, test.labels.tolist()) == ("test", [1])
    assert "classes without a picture" in empty
    for file in (tmp_path / "val").rglob("*.png"):
        file.unlink()
    (tmp_path / "val" / "dog").rmdir()
    (tmp_path / "val").rmdir()
    with pytest.raises(ValueError, match=r"no 'test' split, only train/ in"):
        load(tmp_path)
    put(tmp_path, "test/1.png")  # pictures to be named
    assert load(tmp_path).labels.tolist() == [-1]


@pytest.mark.parametrize("names", ["train bus car", "train", "valid invalid"])
def test_classes_that_are_called_like_splits(tmp_path, names):
    put(tmp_path, *(f"{name}/1.png" for name in names.split()))
    assert load(tmp_path).classes == tuple(sorted(names.split()))
    with pytest.raises(ValueError, match=r"no 'train' split, only 'test'.*sub-folders train"):
        load(tmp_path, split="train")


# --- sizes --------------------------------------------------------------------------------


def test_size_and_fit(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 255  # a white square in the middle
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "1.png")
    put(tmp_path, "a/2.png", size=(5, 9))
    assert load(tmp_path, size=(6, 8)).shape == (3, 6, 8)
    cut = load(tmp_path, size=4, fit="crop").images[0]
    assert torch.equal(cut, torch.ones(3, 4, 4))
    stretched = load(tmp_path, size=np.int64(4)).images[0]
    assert stretched.mean().item() == pytest.approx(1 / 3, abs=0.01)
    fine = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # a chessboard, grey from afar
    Image.fromarray(fine).save(tmp_path / "a" / "1.png")
    assert (load(tmp_path, size=8).images[0] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": (3, 4, 4)}, r"size: expected one number or \(height, width\).*input_shape"),
        ({"size": (4, 0)}, "size: .*at least 1, got 0"),
        ({"size": "224"}, "size.*'224'"),
        ({"size": 4, "fit": "cut"}, "unknown fit 'cut'.*stretch, crop"),
        ({}, r"pass size=4 or size=\(4, 6\), say, best .* model takes.*fit='crop'"),
    ],
)
def test_sizes_that_are_no_sizes(tmp_path, options, word):
    put(tmp_path, "a/1.png")
    put(tmp_path, "a/2.png", size=(9, 9))
    with pytest.raises(ValueError, match=word):
        load(tmp_path, **options)


def test_a_name_without_a_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="folder:: expected a folder of pictures, got no path"
    ):
        data.load("folder:")
    put(tmp_path, "x.png")
    with pytest.raises(FileNotFoundError, match=r"expected a folder of pictures, got .*x\.png"):
        load(tmp_path / "x.png")
    assert os.listdir(tmp_path) == ["x.png"]
