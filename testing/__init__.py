"""For the tests of those who use tilescore: a performance gate as a pytest plug-in (`pytest_plugin`).

No part of the product imports this.
"""
