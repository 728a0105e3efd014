def finish(run):
    pass
