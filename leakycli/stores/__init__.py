"""Where bytes live: URLs and object stores."""
