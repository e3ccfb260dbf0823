"""Inbox: new media and annotation rows are checked against the present data, and merged into data/ or set aside."""
