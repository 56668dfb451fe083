from tests.cli.conftest import checkpoint, dycoke, video

__all__ = ["checkpoint", "dycoke", "video"]
