"""`make bench`: speed, then learning. ARGS="speed", "learning" or "distributed" for one of them."""

import sys

import distributed
import learning
import speed

if __name__ == "__main__":
    chosen = sys.argv[1:] or ["speed", "learning"]
    if unknown := set(chosen) - {"speed", "learning", "distributed"}:
        sys.exit(f"error: {', '.join(unknown)}: there are speed, learning and distributed")
    if "speed" in chosen:
        print(speed.main(5))
    if "distributed" in chosen:
        print(distributed.main(5))
    if "learning" in chosen and (wrong := learning.main(list(learning.STUDIES))):
        sys.exit("\n".join(wrong))
