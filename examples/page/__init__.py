"""The evidence page: `examples/app.py`.

`evidence` says what is shown, `views` and `film` turn it into HTML, `studies` reads an index, `asking` asks the model, `layout`
puts the page together and `server` serves it to this machine alone. Only `layout` and `server` know gradio.
"""
