"""Floor 1: plain torch modules, without configs."""
