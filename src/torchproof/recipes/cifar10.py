"""Recipes on CIFAR-10 by what is trained: full-scale settings, as far as the papers give them."""

from __future__ import annotations

from typing import Any

from torchproof.recipes.plan import Plan
from torchproof.train import Settings

CROP_FLIP = "Compose(Crop(4), Flip())"


def cifar10(method: str, model: str = "preact-resnet18", options: str = "", /, **more: Any) -> Plan:
    """A plan on CIFAR-10, linf 8/255, in the setting of Rice et al. 2020 where `more` settings say
    nothing else; `options` of the network end in a comma.
    """
    settings = Settings.of(
        {"epochs": 200, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, **more}
    )
    model = f"{model}({options}mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))"
    return Plan(
        data="cifar10",
        model=model,
        method=method,
        threat="linf:8/255",
        augment=CROP_FLIP,
        settings=settings,
    )


def cifar10_trades() -> Plan:
    """TRADES, beta 6, of a WideResNet-34-10 on CIFAR-10, 76 epochs of which the last is at a tenth
    of the rate (Zhang et al. 2019, at eps 0.031).
    """
    more = {"epochs": 76, "weight_decay": 2e-4, "schedule": "final"}
    return cifar10("TRADES(beta=6)", "wide-resnet", "depth=34, ", **more)


def cifar10_ema() -> Plan:
    """TRADES, beta 6, of a PreActResNet-18 on CIFAR-10 with a running average of the weights, 200
    epochs in the setting of Rice et al. 2020 (the averaging of Gowal et al. 2020).
    """
    return cifar10("EMA(TRADES(beta=6), decay=0.995)")


def cifar10_iat() -> Plan:
    """Interpolated adversarial training with input mixup on CIFAR-10 (Lamb et al. 2022; weight
    decay of the authors' mixup code).
    """
    return cifar10("IAT(steps=7, length=0.25, alpha=1)", weight_decay=1e-4)


def cifar10_iat_manifold() -> Plan:
    """Interpolated adversarial training with manifold mixup at the input and after the first two
    stages, on CIFAR-10 (Lamb et al. 2022; Verma et al. 2019).
    """
    method = "IAT(steps=7, length=0.25, alpha=2, layers=('layer1', 'layer2'))"
    return cifar10(method, weight_decay=1e-4)


def cifar10_spat() -> Plan:
    """Self-paced adversarial training of a WideResNet-34-10 with a cosine head on CIFAR-10 (Hou et
    al. 2023).
    """
    method = "SPAT(steps=10, length=0.007/0.031, beta=6, margin=0.2, offset=0.2)"
    return cifar10(
        method,
        "wide-resnet",
        "depth=34, head='cosine', scale=8, ",
        epochs=100,
        weight_decay=2e-4,
        schedule="late",
    )


def cifar10_thrm() -> Plan:
    """Training against hypocritical examples of a ResNet-18 on CIFAR-10, beta 40, which the authors
    train at the rate 0.05, divided at epochs 100 and 105 of 110 (Tao et al. 2022).
    """
    method = "THRM(steps=10, length=0.25, beta=40)"
    return cifar10(method, "resnet18", epochs=110, lr=0.05, schedule="tail")


def cifar10_alp() -> Plan:
    """Adversarial logit pairing, weight 0.5, on CIFAR-10, in the setting of Rice et al. 2020
    (Kannan et al. 2018 train on ImageNet).
    """
    return cifar10("ALP(steps=10, length=0.25, lam=0.5)")


def cifar10_score() -> Plan:
    """SCORE, beta 4, of a WideResNet-28-10 on CIFAR-10 alone, with the averaging, the cosine and
    the rate of Gowal et al. 2020 at batch 512 (Pang et al. 2022 add generated images).
    """
    return cifar10(
        "SCORE(steps=10, length=0.25, beta=4)",
        "wide-resnet",
        "depth=28, ",
        epochs=400,
        batch_size=512,
        lr=0.2,
        optimiser="nesterov",
        schedule="cosine",
        ema=0.995,
    )


def cifar10_mart() -> Plan:
    """MART, weight 5, of a ResNet-18 on CIFAR-10, 120 epochs at the rate 0.01 with a weight decay
    of 0.0035 (Wang et al. 2020; drops after a half and three quarters).
    """
    method = "MART(steps=10, length=0.25, lam=5)"
    return cifar10(method, "resnet18", epochs=120, lr=0.01, weight_decay=3.5e-3)


def cifar10_label_smoothing() -> Plan:
    """PGD adversarial training with labels smoothed by 0.1, 110 epochs (Pang et al. 2021; smaller
    network).
    """
    method = "LabelSmoothing(AT(steps=10, length=0.25), amount=0.1)"
    return cifar10(method, epochs=110, schedule="tail")


def cifar10_swa() -> Plan:
    """PGD adversarial training whose weights are averaged over its second half, 200 epochs, on
    CIFAR-10 in the setting of Rice et al. 2020 (averaging of Izmailov et al. 2018; where it begins
    is ours).
    """
    return cifar10("SWA(AT(steps=10, length=0.25), start=0.5)")


def cifar10_jsigr() -> Plan:
    """J-SIGR beside PGD adversarial training, with a smooth activation, on CIFAR-10, reconstructed
    (Liu et al. 2024 published no training code: the settings are ours, those of Rice et al. 2020).
    """
    method = "Sum(AT(steps=10, length=0.25), JSIGR(jacobian=0.1, selective=0.1))"
    return cifar10(method, "preact-resnet18", "activation='softplus', ")


def cifar10_sparta() -> Plan:
    """Adversarial training of a ResNet-18 with the Sparta activation on CIFAR-10, reconstructed
    (Guo et al. 2021): the settings are ours, those of Pang et al. 2021.
    """
    return cifar10(
        "AT(steps=10, length=0.25)",
        "resnet18",
        "activation='sparta', ",
        epochs=110,
        schedule="tail",
    )


def cifar10_standard() -> Plan:
    """Plain training of a PreActResNet-18 on CIFAR-10: the helper of cifar10-hat."""
    return cifar10("Standard", epochs=50, schedule="cyclic")


def cifar10_hat() -> Plan:
    """Helper-based adversarial training of a PreActResNet-18 on CIFAR-10, 50 epochs (Rade and
    Moosavi-Dezfooli 2022); its standard network is the run of cifar10-standard, or `--teacher`.
    """
    method = "HAT(steps=10, beta=2.5, gamma=0.5, helper=2)"
    plan = cifar10(method, epochs=50, schedule="cyclic")
    return plan.model_copy(update={"teacher": "runs/cifar10-standard"})


def cifar10_hgd() -> Plan:
    """HGD guided by logits: DUNET before a fixed PreActResNet-18 on CIFAR-10, eps up to 16/255, 30
    epochs of Adam, flips (Liao et al. 2018 train on ImageNet; grey-box only). The classifier is the
    run of cifar10-standard, or `--teacher`.
    """
    plan = cifar10(
        "LGD()",
        epochs=30,
        batch_size=60,
        lr=1e-3,
        optimiser="adam",
        schedule="late",
        weight_decay=0.0,
        held_out=0,
    )
    own = {"model": "purified", "augment": "Flip()", "teacher": "runs/cifar10-standard"}
    return plan.model_copy(update=own)


def cifar10_he() -> Plan:
    """Adversarial training with hypersphere embedding, scale 10 and margin 0.2, of a
    WideResNet-34-10 on CIFAR-10 (Pang et al. 2020).
    """
    return cifar10(
        "HE(steps=10, length=0.25, margin=0.2)",
        "wide-resnet",
        "depth=34, head='cosine', scale=10, ",
        epochs=100,
        schedule="late",
    )


def cifar10_cifs() -> Plan:
    """CIFS on ResNet-18, an MLP probe and a linear one behind the two blocks of the last stage, on
    CIFAR-10, images not normalised (Yan et al. 2021, whose rate drops at epochs 75 and 90 of 120,
    and who start from a naturally trained network).
    """
    plan = cifar10("CIFSAT(steps=10, beta=2)", epochs=120, weight_decay=2e-4)
    blocks = "{'layer4.0': \"CIFS(probe='mlp')\", 'layer4.1': \"CIFS(probe='linear')\"}"
    return plan.model_copy(update={"model": f"resnet18(insert={blocks})"})


def cifar10_feature_denoising() -> Plan:
    """Adversarial training of a ResNet-18 with non-local denoising behind each stage, on CIFAR-10
    in the setting of Rice et al. 2020 (ours: Xie et al. 2019 train on ImageNet, where the attack
    aims at random classes).
    """
    block = "\"NonLocal(form='softmax')\""
    blocks = ", ".join(f"'layer{stage}': {block}" for stage in (1, 2, 3, 4))
    return cifar10("AT(steps=10, length=0.25)", "resnet18", f"insert={{{blocks}}}, ")
