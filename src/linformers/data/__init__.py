"""Text in, training examples out: books, tokenizers, packed blocks, masks and passages."""
