"""`offhook-doctor`: checks a deployment before its first caller does."""
