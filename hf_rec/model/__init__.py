"""The model: every file of this folder travels to the Hub beside the weights, and needs only stock packages."""
