"""What was run, with which result, and which model is the champion: MLflow, and the only room that imports it.

`config` and `gate` are light; `tracking`, `models` and `promotion` import MLflow (about two seconds), so import them where
they are needed.
"""
