"""What pytest does not collect: modules that import an extra which is not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("flwr") else ["hf_rec/federated/*.py"]
