"""Train a language model on a sequence of tokens from a file, in pieces, the state carried on from one to the next."""

import sys

import numpy as np
import torch
from torch import nn, optim


class LanguageModel(nn.Module):
    def __init__(self, tokens, width, hidden, layers):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=layers, batch_first=True)
        self.decoder = nn.Linear(hidden, tokens)

    def forward(self, x, state=None):
        output, state = self.lstm(self.embedding(x), state)
        return self.decoder(output), state


def main():
    torch.manual_seed(1)
    file = np.load(sys.argv[1])
    text = torch.from_numpy(file["tokens"])
    tokens = int(text.max()) + 1

    model = LanguageModel(tokens, width=12, hidden=16, layers=2)
    weights = {key[len("model.") :]: torch.from_numpy(file[key]) for key in file.files if key.startswith("model.")}
    model.load_state_dict(weights)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    for epoch in range(2):
        state = None
        for start in range(0, text.size(1) - 1, 8):
            x = text[:, start : start + 8]
            y = text[:, start + 1 : start + 9]
            x = x[:, : y.size(1)]
            optimizer.zero_grad()
            output, state = model(x, state)
            state = tuple(s.detach() for s in state)
            loss = criterion(output.reshape(-1, tokens), y.reshape(-1))
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
            optimizer.step()
            print(f"epoch {epoch} start {start} loss {loss.item():.15g} norm {norm.item():.15g}")

    model.eval()
    with torch.no_grad():
        output, _ = model(text[:1, :8])
        probabilities = torch.softmax(output[0, -1], dim=-1)
    print("next", " ".join(f"{p:.15g}" for p in probabilities.tolist()))


if __name__ == "__main__":
    main()
