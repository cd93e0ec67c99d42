import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from workbench import models
from workbench.models import foreign


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="needs dnn-workbench[hf]")


@pytest.fixture(scope="module")
def vit(transformers):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )
    return transformers.ViTForImageClassification(config).eval()


@pytest.fixture
def vit_folder(vit, tmp_path):
    vit.save_pretrained(tmp_path)
    write_preprocessor(tmp_path)
    return tmp_path


def write_preprocessor(folder, **changes):
    facts = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "size": {"height": 16, "width": 16},
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts | changes))


@pytest.mark.parametrize(("package", "load"), [("transformers", "hf"), ("timm", "timm")])
def test_a_missing_extra_says_what_to_install(package, load, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    read = {"hf": foreign.huggingface, "timm": foreign.timm}[load]
    with pytest.raises(ImportError, match=rf"pip install dnn-workbench\[{load}\]"):
        read("some/model")


def test_an_unfit_torchvision_is_named(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(foreign.importlib, "import_module", broken)
    with pytest.raises(ImportError, match="Install the torchvision that fits torch"):
        foreign.timm("resnet18")


@pytest.mark.parametrize(
    ("facts", "image_size", "expected"),
    [
        ({"size": {"height": 20, "width": 30}}, 8, (20, 30)),
        ({"size": {}, "do_center_crop": True, "crop_size": {"height": 9, "width": 7}}, 8, (9, 7)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 9, "width": 7}}, 8, (256, 256)),
        ({"size": 24}, 8, (24, 24)),
        ({"size": [20, 30]}, 8, (20, 30)),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 32}, 8, (32, 32)),
        ({"size": 40, "do_center_crop": True, "crop_size": None}, 8, (40, 40)),
        ({"size": {"height": None, "width": None, "shortest_edge": 30}}, 8, (30, 30)),
        (None, 8, (8, 8)),
        (None, [8, 9], (8, 9)),
        (None, None, (224, 224)),
    ],
)
def test_size(facts, image_size, expected):
    processor = None if facts is None else SimpleNamespace(**facts)
    assert foreign.size(processor, SimpleNamespace(image_size=image_size)) == expected


def test_vit_gives_the_logits_of_transformers(vit, vit_folder):
    (vit_folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    found = foreign.huggingface(vit_folder)
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), vit(pixel_values=x).logits, rtol=0, atol=1e-6)
    assert found.classes == ("cat", "dog", "owl")
    assert found.input_shape == (3, 16, 16)
    assert found.mean == pytest.approx((0.5, 0.4, 0.3))
    assert found.std == pytest.approx((0.2, 0.3, 0.4))
    assert found.licence == "apache-2.0"
    assert not found.module.training
    x.requires_grad_()
    found.module(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "change", [{"rescale_factor": 1 / 127.5}, {"do_rescale": False}, {"include_top": True}]
)
def test_a_processor_that_does_more_than_mean_and_std_is_refused(vit_folder, change):
    write_preprocessor(vit_folder, **change)
    with pytest.raises(ValueError, match=r"prepares pixels by more than mean.*models\.wrap"):
        foreign.huggingface(vit_folder)


def test_a_resnet_without_a_preprocessor_warns(transformers, tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    resnet = transformers.ResNetForImageClassification(config).eval()
    resnet.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="does not say how to normalise"):
        found = foreign.huggingface(str(tmp_path))
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.module(x), resnet(pixel_values=x).logits)
    assert (found.mean, found.std, found.licence) == (None, None, None)
    assert found.input_shape == (3, 224, 224)
    assert found.classes == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert not found.named


@pytest.fixture(scope="module")
def five(transformers):
    """The five kinds of the field, small, with the processors that they are published with."""
    t, sides = transformers, {"height": 32, "width": 32}
    nets = {
        "resnet": (
            t.ResNetForImageClassification(
                t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
            ),
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}},
        ),
        "vit": (
            t.ViTForImageClassification(
                t.ViTConfig(
                    hidden_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=32,
                    image_size=32,
                    patch_size=8,
                    num_labels=5,
                )
            ),
            {"image_processor_type": "ViTImageProcessor", "size": sides},
        ),
        "convnext": (
            t.ConvNextForImageClassification(
                t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5)
            ),
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}},
        ),
        "swin": (
            t.SwinForImageClassification(
                t.SwinConfig(
                    image_size=32,
                    patch_size=4,
                    embed_dim=8,
                    depths=[1, 1],
                    num_heads=[1, 2],
                    window_size=4,
                    num_labels=5,
                )
            ),
            {"image_processor_type": "ViTImageProcessor", "size": 32},
        ),
        "mobilenet": (
            t.MobileNetV2ForImageClassification(
                t.MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=5)
            ),
            {
                "image_processor_type": "MobileNetV2ImageProcessor",
                "size": {"shortest_edge": 40},
                "crop_size": sides,
                "do_center_crop": True,
            },
        ),
    }
    return {name: (net.eval(), processor) for name, (net, processor) in nets.items()}


NETS = ["resnet", "vit", "convnext", "swin", "mobilenet"]


@pytest.mark.parametrize("name", NETS)
def test_the_networks_of_the_field_load_from_a_folder(name, five, tmp_path):
    net, processor = five[name]
    net.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = models.load(f"hf:{tmp_path}")
    assert model.input_shape == (3, 32, 32)
    assert (model.classes, model.card.named) == (tuple("01234"), False)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(pixel_values=(x - model.mean) / model.std).logits
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_the_networks_of_the_field_are_wrapped_as_they_are(name, five):
    net, _ = five[name]
    with pytest.warns(UserWarning, match=r"taken to be output\['logits'\]"):
        model = models.wrap(net, input_shape=(3, 32, 32))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(x).logits, rtol=1e-4, atol=1e-5)


def test_a_backbone_of_transformers_is_no_classifier(transformers, vit):
    with pytest.raises(ValueError, match=r"\['pooler_output'\] \(3, 16\)"):
        models.wrap(transformers.ViTModel(vit.config).eval(), input_shape=(3, 16, 16))


def test_shards_are_read(vit, tmp_path):
    vit.save_pretrained(tmp_path, max_shard_size="5KB")
    assert not (tmp_path / "model.safetensors").exists()
    write_preprocessor(tmp_path)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(foreign.huggingface(tmp_path).module(x), vit(x).logits)
    next(tmp_path.glob("model-00001*")).unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        foreign.huggingface(tmp_path)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("id2label", "classes"),
    [
        ({"0": "cat", "1": "dog", "2": "owl"}, ("cat", "dog", "owl")),
        ({"2": "owl", "0": "cat", "1": "dog"}, ("cat", "dog", "owl")),
        ({"0": "crane", "1": "crane", "2": "owl"}, ("crane (0)", "crane (1)", "owl")),
        ({"0": 7, "1": 8, "2": 9}, ("7", "8", "9")),
    ],
)
def test_class_names_are_read_by_number(id2label, classes, vit_folder):
    change_config(vit_folder, id2label=id2label)
    model = models.load(f"hf:{vit_folder}")
    assert (model.classes, model.card.named) == (classes, True)


def test_class_names_that_count_from_one_are_read_in_order_and_it_is_said(vit_folder):
    change_config(vit_folder, id2label={"1": "cat", "2": "dog", "3": "owl"})
    with pytest.warns(UserWarning, match="counts its 3 classes from 1.*first output as 'cat'"):
        model = models.load(f"hf:{vit_folder}")
    assert model.classes == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    "changes",
    [
        {"id2label": {"0": "cat", "2": "dog", "5": "owl"}},
        {"id2label": {"0": "cat", "1": "dog"}, "num_labels": 3},
    ],
)
def test_class_names_that_do_not_fit_leave_numbers_and_it_is_said(changes, vit_folder):
    change_config(vit_folder, **changes)
    with pytest.warns(UserWarning, match="there are 3 outputs: the classes stay numbers"):
        model = models.load(f"hf:{vit_folder}")
    assert (model.classes, model.card.named) == (("0", "1", "2"), False)


@pytest.mark.parametrize("n", [2, 4])
def test_more_or_fewer_class_names_than_weights_are_an_error(n, vit_folder):
    change_config(vit_folder, id2label={str(k): f"c{k}" for k in range(n)})
    with pytest.raises(
        ValueError, match=rf"\(3,\) in the file, and \({n},\) by config.json, .* {n}"
    ):
        foreign.huggingface(vit_folder)


@pytest.mark.parametrize("id2label", [{"cat": 0, "dog": 1, "owl": 2}, ["cat", "dog", "owl"], "cat"])
def test_class_names_in_another_form_are_an_error(id2label, vit_folder):
    change_config(vit_folder, id2label=id2label)
    with pytest.raises(ValueError, match=r"id2label in config\.json is not of the form"):
        foreign.huggingface(vit_folder)


def test_a_network_with_one_output_says_what_to_do(transformers, vit, tmp_path):
    config = transformers.ViTConfig(**vit.config.to_dict() | {"id2label": {0: "score"}})
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    write_preprocessor(tmp_path)
    with pytest.raises(ValueError, match=r"two logits \(0, s\)"):
        models.load(f"hf:{tmp_path}")


def test_a_single_mean_serves_all_channels(vit_folder):
    write_preprocessor(vit_folder, image_mean=0.5, image_std=0.25)
    model = models.load(f"hf:{vit_folder}")
    assert (model.mean.flatten().tolist(), model.std.flatten().tolist()) == ([0.5] * 3, [0.25] * 3)


def test_pickled_weights_are_refused(vit, vit_folder):
    (vit_folder / "model.safetensors").unlink()
    torch.save(vit.state_dict(), vit_folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights are refused"):
        foreign.huggingface(vit_folder)


def test_a_network_without_a_trained_head_is_refused(transformers, vit, tmp_path):
    transformers.ViTModel(vit.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the weights classifier\.bias"):
        foreign.huggingface(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_damaged_folder_is_a_value_error(vit_folder, file):
    (vit_folder / file).write_text("{")
    with pytest.raises(ValueError, match=str(vit_folder)):
        foreign.huggingface(vit_folder)


def test_offline_and_not_cached_is_said_at_once(transformers, monkeypatch, tmp_path):
    import huggingface_hub

    fetch = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: fetch(name, cache_dir=tmp_path, local_files_only=True, **options),
    )
    with pytest.raises(ConnectionError, match="owner/model is not in the cache"):
        foreign.huggingface("owner/model")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        foreign.huggingface(tmp_path / "nowhere")


@pytest.fixture
def fake_timm(monkeypatch, tmp_path):
    """The part of timm that we use, for timm needs a torchvision that fits torch."""
    from safetensors.torch import save_file

    weights = {"weight": torch.ones(4, 12), "bias": torch.arange(4.0)}
    save_file(weights, tmp_path / "model.safetensors")
    cfg = SimpleNamespace(hf_hub_id=str(tmp_path), license="mit")

    def create_model(name, pretrained, pretrained_cfg_overlay):
        model = nn.Linear(12, 4)
        model.load_state_dict(pretrained_cfg_overlay["state_dict"])
        model.num_classes = 4
        return model

    library = SimpleNamespace(
        is_model=lambda name: name.startswith("tiny"),
        list_models=lambda pretrained: ["tiny_net"],
        models=SimpleNamespace(
            is_model_pretrained=lambda name: True, get_pretrained_cfg=lambda name: cfg
        ),
        create_model=create_model,
        data=SimpleNamespace(
            resolve_model_data_config=lambda model: {
                "input_size": (3, 2, 2),
                "mean": (0.5, 0.5, 0.5),
                "std": (0.2, 0.2, 0.2),
            },
            infer_imagenet_subset=lambda model: None,
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", library)
    return tmp_path


def test_timm_models_come_with_their_facts(fake_timm):
    found = foreign.timm("tiny_net")
    assert torch.equal(found.module(torch.zeros(1, 12)), torch.arange(4.0)[None])
    assert found.classes == ("0", "1", "2", "3")
    assert (found.input_shape, found.licence) == ((3, 2, 2), "mit")
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_timm_names_are_suggested_and_pickles_refused(fake_timm):
    with pytest.raises(ValueError, match="Did you mean 'tiny_net'"):
        foreign.timm("a_tiny_net")
    (fake_timm / "model.safetensors").unlink()
    (fake_timm / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickled weights are refused"):
        foreign.timm("tiny_net")
