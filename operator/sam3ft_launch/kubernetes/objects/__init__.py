"""One kind of object per module; each is a function of plan and settings that returns a plain JSON dict."""
