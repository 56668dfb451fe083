"""What bench, eval and nano share: provenance of results, figures, analytic costs, ranks, interrupts."""
