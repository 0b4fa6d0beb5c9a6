"""SPECT and PET reconstruction with the physics of the scan inside the algorithm, open to neural networks."""

from importlib.metadata import PackageNotFoundError, version
from pkgutil import extend_path

# In a source tree this folder stands alone and would hide the installed packages from whoever starts Python beside it.
__path__ = extend_path(__path__, __name__)

try:
    __version__ = version("emrecon")
except PackageNotFoundError as error:
    raise ImportError("emrecon is not installed: `pip install .` first") from error
