"""`trm warmstart`: a pretrained model imitates an environment's solver until it half succeeds."""
