"""The example project, with its module billing in three places: settings alone differ."""
