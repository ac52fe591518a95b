"""Upload a model folder to the Hugging Face Hub in one commit: weights, config, results, card, picture.

Needs a token with write access (`hf auth login`, or HF_TOKEN). The model is verified first.
"""

import argparse
import json

from checkpoints.locate import find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder with its card")
    parser.add_argument("--repo-id", metavar="OWNER/NAME", required=True, help="the repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private if it is new")
    parser.add_argument("--dry-run", action="store_true", help="list the files without uploading them")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from checkpoints.hub import publish
    from commands.download import check

    folder = find(args.model)
    check(folder)
    answer = publish(folder, args.repo_id, private=args.private, dry_run=args.dry_run)
    if args.json:
        print(json.dumps(answer))
    elif args.dry_run:
        print(f"would upload to {answer['url']} in one commit:")
        for name, size in answer["files"].items():
            print(f"  {name:<24}{size:>12,} bytes")
    else:
        print(f"published {answer['url']} at commit {answer['commit']}")
    return 0
