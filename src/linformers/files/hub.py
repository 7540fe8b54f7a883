"""Folders uploaded to the Hugging Face hub. Token, checks and transfer are those of ``huggingface_hub``."""

from pathlib import Path


def check_repo(repo: str) -> None:
    """Refuse what cannot be the name of a repository on the hub, before anything is worked out for it.

    Raises:
        ValueError: No such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"push_to_hub={repo!r} is no name of a repository, as user/name is: {reason}") from error


def push_folder(folder: Path, repo: str) -> str:
    """Upload a folder to a model repository of the hub, which is made where it is not there.

    Args:
        folder: The folder, which stays as it is.
        repo: Name of the repository, as ``user/name``.

    Returns:
        The address of the repository.

    Raises:
        OSError: It was not uploaded; the message says why, that the folder is whole, and how to upload it later.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = str(api.create_repo(repo, exist_ok=True))
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model of linformers")
    except Exception as error:  # of the network, the hub, its client and its transport, which share no class
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OSError(
            f"{folder} is whole, but was not uploaded to {repo}: {reason.rstrip('.')}. To upload it later: hf upload "
            f"{repo} {folder}"
        ) from error
    return address
