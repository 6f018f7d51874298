"""The front door: names, records, registration."""

import dataclasses
import subprocess
import sys
import textwrap

import keras
import pytest

import zoo
from zoo import model_index, registry


@pytest.fixture
def own_model():
    """A registered model of a user's own, removed afterwards."""

    @zoo.register(task="classification", section="none")
    def my_net2(num_classes=3, classifier_activation="softmax", width=4):
        """A net of one's own."""
        rgb = keras.Input((None, None, None, 3), name="rgb")
        x = keras.layers.GlobalAveragePooling3D()(rgb)
        x = keras.layers.Dense(width)(x)
        outputs = keras.layers.Dense(num_classes, classifier_activation, name="fc")(x)
        return keras.Model(rgb, outputs, name="my_net2")

    yield my_net2
    del registry._BUILDERS["my_net2"], registry._INFOS["my_net2"]


def test_names_in_natural_order():
    assert zoo.list_models("resnet*") == [
        "resnet26_tiny",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnet_tiny",
    ]
    assert zoo.list_models("*nothing*") == []
    assert set(zoo.list_models("*resnet*")) <= set(zoo.list_models())


def test_own_model_is_a_model_like_the_others(own_model):
    assert "my_net2" in zoo.list_models()
    assert dict(zoo.info("my_net2").options) == {"width": 4}
    assert zoo.load("my_net2", num_classes=7, width=2).output_shape == (None, 7)
    with pytest.raises(ValueError, match="'my_net2' is registered already, by tests"):
        zoo.register(task="classification", section="none")(own_model)


def test_registration_needs_its_facts():
    with pytest.raises(TypeError, match="section"):

        @zoo.register(task="classification")
        def unnamed(num_classes=1, classifier_activation=None):
            """Nothing."""

    with pytest.raises(TypeError, match="colour"):

        @zoo.register(task="t", section="s", colour="red")
        def painted(num_classes=1, classifier_activation=None):
            """Nothing."""

    assert not {"unnamed", "painted"} & set(zoo.list_models())


def test_records_are_frozen_and_print_as_cards():
    info = zoo.info("t_resnet50")
    with pytest.raises(AttributeError):
        info.name = "other"
    with pytest.raises(TypeError):
        info.options["unit"] = "other"
    assert hash(info) == hash(zoo.info("t_resnet50"))
    card = str(info)
    for fact in ("7.3", "25.64 M", "66.6 G", "16 x 224 x 224", "res5 17 frames x 483"):
        assert fact in card
    assert "imagenet" in card
    assert "starts from     resnet50" in card


@pytest.mark.parametrize("name", ["t_resnet5", "T_ResNet50", "tresnet50"])
def test_unknown_name_names_the_nearest(name):
    for call in (zoo.info, zoo.load):
        with pytest.raises(ValueError, match=f"Unknown model '{name}'.*t_resnet50"):
            call(name)


def test_unknown_endpoint_names_the_nearest():
    model = zoo.load("resnet_tiny")
    with pytest.raises(ValueError, match="no endpoint 'res44'; the nearest are .*res4"):
        zoo.features(model, ["res44"])
    with pytest.raises(ValueError, match=r"No endpoints given"):
        zoo.features(model, [])
    assert list(zoo.features(model, "res4").output) == ["res4"]


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "ten", True])
def test_number_of_classes_is_checked(num_classes):
    with pytest.raises(ValueError, match="num_classes must be a positive integer"):
        zoo.load("resnet_tiny", num_classes=num_classes)


def test_scores_instead_of_probabilities():
    model = zoo.load("resnet_tiny", classifier_activation=None)
    assert model.get_layer("predictions").activation is keras.activations.linear


def test_the_file_of_records_is_what_the_models_register():
    """Otherwise `python -m zoo.model_index` writes it anew."""
    known = {name: info for name, info in registry._INFOS.items()}
    own = {n for n in known if registry._BUILDERS[n].__module__.startswith("zoo.")}
    filed = model_index.read()
    assert set(filed) == own, "run python -m zoo.model_index"
    for name in own:
        for field in dataclasses.fields(known[name]):
            ours, theirs = (getattr(i[name], field.name) for i in (filed, known))
            assert ours == theirs, f"{name}.{field.name}: python -m zoo.model_index"


def test_the_file_is_written_as_it_is_read(tmp_path):
    model_index.write(model_index.read().values(), tmp_path / "models.json")
    assert (tmp_path / "models.json").read_bytes() == model_index.PATH.read_bytes()


def test_names_and_records_need_neither_keras_nor_tensorflow():
    code = """
        import sys
        import zoo, zoo.__main__
        assert zoo.info("t_resnet50").endpoints[0] == "conv1"
        assert zoo.__main__.main(["list", "rfcn*"]) == 0
        assert zoo.__main__.main(["info", "t_resnet50"]) == 0
        heavy = {"keras", "tensorflow", "numpy", "h5py", "av", "cv2"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_model_that_is_not_on_file_yet(monkeypatch):
    """Before a name is called unknown, the models' modules are asked."""
    infos, modules = dict(registry._INFOS), sys.modules["zoo.models"]
    info = infos.pop("resnet_tiny")
    monkeypatch.setattr(registry, "_INFOS", infos)
    monkeypatch.setattr(model_index, "read", dict)
    monkeypatch.delitem(sys.modules, "zoo.models")

    def load(name):
        sys.modules[name] = modules
        infos["resnet_tiny"] = info

    monkeypatch.setattr(registry.importlib, "import_module", load)
    assert registry.info("resnet_tiny") is info
