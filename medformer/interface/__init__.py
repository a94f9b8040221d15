"""What `import medformer` offers to a program: trained models, cross-validations, comparisons, backbones."""
