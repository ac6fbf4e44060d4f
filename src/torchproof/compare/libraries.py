"""The libraries that can be compared; another one is a file like these and a row here."""

from __future__ import annotations

from torchproof.compare.adv_lib import ADV_LIB
from torchproof.compare.art import ART
from torchproof.compare.autoattack import AUTOATTACK
from torchproof.compare.foolbox import FOOLBOX
from torchproof.compare.library import Library
from torchproof.compare.own import OWN
from torchproof.compare.torchattacks import TORCHATTACKS

LIBRARIES: dict[str, Library] = {
    library.name: library for library in (OWN, AUTOATTACK, TORCHATTACKS, FOOLBOX, ART, ADV_LIB)
}
