"""Train a convolutional autoencoder on noisy pictures from a file."""

import sys

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset


class Autoencoder(nn.Module):
    def __init__(self, code):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.GELU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, code),
        )
        self.expand = nn.Linear(code, 16 * 4 * 4)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(8, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        code = self.encoder(x)
        hidden = torch.relu(self.expand(code)).view(-1, 16, 4, 4)
        return self.decoder(hidden), code


def main():
    torch.manual_seed(1)
    file = np.load(sys.argv[1])
    clean, noisy = torch.from_numpy(file["clean"]), torch.from_numpy(file["noisy"])
    loader = DataLoader(TensorDataset(noisy, clean), batch_size=8, shuffle=False, drop_last=True)

    model = Autoencoder(code=6)
    weights = {key[len("model.") :]: torch.from_numpy(file[key]) for key in file.files if key.startswith("model.")}
    model.load_state_dict(weights)
    criterion = nn.MSELoss()
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)

    for epoch in range(3):
        model.train()
        total = 0.0
        for x, y in loader:
            output, code = model(x)
            loss = criterion(output, y) + 1e-3 * code.abs().mean() + 1e-3 * (code**2).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * x.size(0)
        scheduler.step()
        print(f"epoch {epoch} lr {scheduler.get_last_lr()[0]:.15g} loss {total / len(loader.dataset):.15g}")

    model.eval()
    with torch.no_grad():
        output, _ = model(noisy)
        error = nn.functional.binary_cross_entropy(output, clean)
    print(f"final {error.item():.15g} largest {output.max().item():.15g}")


if __name__ == "__main__":
    main()
