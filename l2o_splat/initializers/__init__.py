"""Where a scene starts: from points, or from networks that see photographs."""
