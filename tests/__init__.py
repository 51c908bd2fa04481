"""The tests of Hilum: one module for each module of the product, and round trips."""
