"""Train: python src/train.py algo=double_dqn env=cartpole (--help lists what there is)."""

from downpour.cli import train

if __name__ == "__main__":
    train()
