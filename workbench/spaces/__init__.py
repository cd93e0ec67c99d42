"""What a point is where it is no image: a row of a table, a node of a graph, a sentence.

`spaces.table(frame).classifier(module)` is a `Classifier` like any other. It carries its space, so
that attacks move what may move and count again at the nearest point that exists, and figures draw
a row in natural units, an ego net, a sentence. Images have no space, and stay as they are.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["InputSpace"],
        "graphs": ["Nodes", "nodes", "propagation"],
        "moving": ["held"],
        "rows": ["Rows", "table"],
        "sentences": ["Sentences", "tokens"],
    },
)
