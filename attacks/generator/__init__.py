"""Multi-target adversarial generation: one network, every target, one forward pass.

>>> generator = attacks.train_generator(model, images, epsilon=8 / 255)
>>> adversarials = generator(photos, targets)
>>> attacks.evaluate_generator(generator, model, photos, labels).frame()

``network.py`` is the generator; ``training.py`` trains it, ``trainer.py`` one step at a time, with ``views.py`` and
``checkpoint.py``; ``evaluation.py`` says how well it does, ``attack.py`` lets it take part in :func:`attacks.evaluate`, and
``files.py`` keeps it.
"""
