"""What emotion is, how it acts on a model, how it is read back. Imports no other folder of ours."""
