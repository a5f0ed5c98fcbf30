"""The command line: see `run`."""

from absl import app, flags

from distilbert_serving.smoke_test.run import define_flags, main

if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(lambda words: main(flags.FLAGS))
