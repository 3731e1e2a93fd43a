from ovmse.cli.app import app

app(prog_name="ovmse")
