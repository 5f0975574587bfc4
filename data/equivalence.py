def same_meaning(a, b, canonical):
    return False
