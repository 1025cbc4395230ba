"""A bundle as a service over HTTP; its libraries come with the extra `depthwise[serve]` and are imported late."""
