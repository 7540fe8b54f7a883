"""What a model does, measured: how far a converted one is from its teacher."""
