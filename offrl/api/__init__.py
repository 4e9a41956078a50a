"""The functions of `import offrl`: learning, judging what was learned, and datasets. The command line calls these."""
