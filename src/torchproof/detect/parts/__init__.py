"""What detectors are made of: densities, machines, networks, squeezers, and what attacks aim at."""
