"""Images and files on their way in and out, as archives."""
