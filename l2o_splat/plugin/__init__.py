"""The only room that imports nerfstudio: its data manager, model, pipeline, trainer and configurations."""
